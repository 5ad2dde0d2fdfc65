"""Model services on real servers, each in a process of its own.

All have the same two operations: ``/v1/refuse/STATUS`` answers before the body is read, ``/v1/take`` reads the body
and then answers with its length.
"""
