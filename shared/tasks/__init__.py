"""The words of the domain: a task, its states and history, and what comes of each step of its life."""
