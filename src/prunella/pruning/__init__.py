"""Plans of students, what follows from a plan, and pruning by it."""
