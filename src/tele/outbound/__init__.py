"""How do connections leave this machine: directly, or through an egress proxy of its network?"""
