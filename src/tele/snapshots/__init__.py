"""The program that makes indexes of recordings: terminals, keyframes, text. Glue starts it."""
