"""The programs that conformance/programs runs on a volume, one module a kind.

A part is a function that gets a World and checks what the program promises its users. It fails by raising.
"""
