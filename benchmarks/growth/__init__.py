"""How time and memory grow: with waiters, names, sessions, a queue's length, subscribers."""
