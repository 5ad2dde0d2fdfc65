"""The local gateway: API Management's part in front of the local stack, by the very policy files that Bicep deploys.

It knows the elements and attributes that these files use, and refuses to start on any other (`grammar`). Expressions
are C#, which mono compiles and runs (`expressions`). docs/local-stack.md lists what it does not emulate.
"""
