"""What the papers claim, set beside what our runs gave."""
