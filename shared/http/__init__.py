"""HTTP as the rooms speak it. The only part of ``shared`` that knows ``azure.functions``."""
