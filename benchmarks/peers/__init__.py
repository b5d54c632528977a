"""Other people's locks, queues and elections, doing the same work on the same machine in the same run."""
