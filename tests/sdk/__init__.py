"""The SDK as its users have it: built, installed into each Python that it is for, and tested there."""
