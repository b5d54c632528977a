"""Bytes to etcd: HTTP/2 and gRPC on plain sockets.  Knows nothing of locks."""
