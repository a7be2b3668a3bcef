"""An A2A agent that plans a dinner: it asks back for what it must know, and streams the menu course by course.

Asked for a dinner "for 4", and with what to leave out: "dinner for 4 without fish". A task that lacks the number of
guests waits for it in state INPUT_REQUIRED; the answer goes on with the same task. Tasks are kept in memory, which
lives as long as the session. No model behind it. Invariant: a task that is not waiting ends, COMPLETED or FAILED.
"""

from __future__ import annotations

import asyncio
import os
import re

from a2a.helpers import get_message_text, new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentSkill
from bedrock_agentcore.runtime import serve_a2a

PACE_S = float(os.environ.get("AGENT_PACE_S", "0.02"))
"""Pause between the courses, so that it reads like a model's answer."""

COURSES = {
    "starter": {"fish soup": "fish", "onion soup": "onion", "green salad": ""},
    "main course": {"roast lamb": "meat", "baked trout": "fish", "mushroom risotto": "mushroom"},
    "dessert": {"nut cake": "nut", "apple crumble": "apple", "lemon sorbet": ""},
}
"""The dishes of each course, and what is in them that one may want to leave out."""


class Planner(AgentExecutor):
    """One dinner a task."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Go on with the task as far as what was said until now allows."""
        assert context.message is not None
        task = context.current_task or new_task_from_user_message(context.message)
        if context.current_task is None:
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        said = " ".join([*(get_message_text(message) for message in task.history), get_message_text(context.message)])
        guests = re.search(r"\d+", said)
        if guests is None:
            await updater.requires_input(updater.new_agent_message([new_text_part("For how many guests?")]))
            return
        await updater.start_work()
        without = set(re.findall(r"\w+", said.partition("without")[2].lower()))
        for number, (course, dishes) in enumerate(COURSES.items()):
            dish = next((dish for dish, within in dishes.items() if within not in without), None)
            if dish is None:
                nothing = updater.new_agent_message([new_text_part(f"There is no {course} left to cook.")])
                await updater.failed(nothing)
                return
            await asyncio.sleep(PACE_S)
            await updater.add_artifact(
                [new_text_part(f"{course} for {guests[0]}: {dish}\n")],
                artifact_id="menu",
                name="menu",
                append=number > 0,
                last_chunk=number == len(COURSES) - 1,
            )
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """A task that waits is given up."""
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


CARD = AgentCard(
    name="dinner planner",
    description="Plans a dinner of three courses.",
    version="1.0.0",
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    skills=[
        AgentSkill(
            id="plan",
            name="plan a dinner",
            description="Finds a dish for each course.",
            tags=["food"],
            examples=["dinner for 4 without fish"],
        )
    ],
)
"""Where the agent is reached is written into it when the server starts: the server's address is known only then."""

if __name__ == "__main__":
    serve_a2a(Planner(), CARD)
