"""The shell door: translates words into verbs and back, and decides nothing."""
