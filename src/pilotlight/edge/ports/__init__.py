"""Web servers in containers: requests to them go as bytes to a port, not as inputs to a function.

Owns the rule that a message's boundaries are ours: each request and response is framed anew from what was parsed, so that the two
sides can't disagree about where one ends and the next begins.
"""
