"""What a namespace holds, for people to look at: locks, lines, sessions, and what became of them.

`kinds` and `census` turn keys into primitives and sessions, `chronicle` turns changes into happenings: pure.
`reading` and `archive` get the keys and the changes from etcd.  Nothing here writes, and nothing that others
wrote makes it raise.
"""
