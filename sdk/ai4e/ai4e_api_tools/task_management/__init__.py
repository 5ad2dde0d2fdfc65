"""Where tasks are kept, and reported on."""
