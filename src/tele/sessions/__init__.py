"""What does a part share that serves a user's SSH sessions, wherever their programs run?"""
