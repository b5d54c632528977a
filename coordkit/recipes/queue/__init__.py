"""Queues: jobs that survive their consumers.  `queue.Queue` is the way in; a module for each part."""

from __future__ import annotations

from coordkit.recipes.queue.crew import Crew
from coordkit.recipes.queue.dead_letters import DeadLetter, DeadLetters
from coordkit.recipes.queue.job import Job
from coordkit.recipes.queue.queue import Empty, Peeked, Queue
from coordkit.recipes.queue.terms import Terms

__all__ = ["Crew", "DeadLetter", "DeadLetters", "Empty", "Job", "Peeked", "Queue", "Terms"]
