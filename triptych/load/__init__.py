"""Load on a running deployment, and what it measures.

Times are taken in the client, on arrival of messages; nothing is estimated.
"""
