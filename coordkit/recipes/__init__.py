"""The recipes: one module each.  They see a session and a line, never the client's insides."""
