"""What keeps one overloaded or silent part from taking the others with it."""
