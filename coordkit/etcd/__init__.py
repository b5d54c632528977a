"""etcd's concepts as Python: keys, transactions, leases, watches, and the client that carries them."""
