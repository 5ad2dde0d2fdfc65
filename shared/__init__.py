"""What the four rooms share. ``docs/architecture.md`` names the rooms in here and what each may import."""
