"""Makes a model service of a template: ``python3 dev.py new-service NAME``."""
