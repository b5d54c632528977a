"""A chat: start it in two terminals, and write.

usage: chat.py [URL] [NAME]

The topic is retained, so who comes later reads the last hundred lines first.  Ctrl-D or Ctrl-C ends it.
"""

import getpass
import os
import sys
import threading

import etcd_server

import coordkit
from coordkit import codecs

KEPT = 100


def show(messages: coordkit.Subscription, done: threading.Event) -> None:
    """Print what is said, by us, too, until the end."""
    while True:
        try:
            for message in messages:
                said = message.value
                print(f"{said['who']}: {said['text']}", flush=True)
                if said.get("left") == os.getpid():
                    done.set()
            return
        except coordkit.Gap:
            print("(some lines are gone)", flush=True)
        except (coordkit.InvalidValue, TypeError, KeyError):
            print("(something that is no line of a chat)", flush=True)


def main() -> None:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    who = sys.argv[2] if len(sys.argv) > 2 else getpass.getuser()
    try:
        coord = coordkit.connect(url, timeout=5)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)

    with coord, coord.topic("chat", retain=KEPT, codec=codecs.JSON).subscribe("all") as messages:
        done = threading.Event()
        threading.Thread(target=show, args=(messages, done), daemon=True).start()
        room = coord.topic("chat", retain=KEPT, codec=codecs.JSON)
        for line in sys.stdin:
            room.publish({"who": who, "text": line.rstrip("\n")})
        room.publish({"who": who, "text": "(leaves)", "left": os.getpid()})
        done.wait(5)  # what was said before has been shown, too


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
