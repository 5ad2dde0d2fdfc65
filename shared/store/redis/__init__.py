"""How the store reaches Redis: the client, pipelining, partitions, and the Lua scripts as they are sent."""
