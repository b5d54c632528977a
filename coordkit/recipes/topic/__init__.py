"""Topics: what is published is seen by every subscriber, in one order.

`live`: who is there, or comes before history is compacted, sees it.  `log`: retained topics, which can be
replayed.
"""

from __future__ import annotations

from coordkit.recipes.topic.cursors import Cursor
from coordkit.recipes.topic.message import Message
from coordkit.recipes.topic.subscription import Subscription
from coordkit.recipes.topic.topic import Topic
from coordkit.recipes.topic.trimming import Retain

__all__ = ["Cursor", "Message", "Retain", "Subscription", "Topic"]
