"""The prompts of requests in ids, for engines that run here; one that cannot be asked is a failed item, not a failed job."""

from collections.abc import Sequence

from prefdata.models.chat import Refused
from prefdata.models.engines.protocol import NO_ROOM, REFUSED, Completion, Request
from prefdata.models.tokens import Encoder

WITHOUT_ROOM = Completion("", "error", 0, NO_ROOM)


def prompts_of(encoder: Encoder, requests: Sequence[Request]) -> tuple[list[list[int]], dict[int, Completion]]:
    """(ids of each prompt, [] where there are none; by place the replies to prompts that the template refuses)."""
    found = encoder.prompts_or_refusals([(r.messages, r.tools, r.template_kwargs) for r in requests], generation=True)
    refused = {i: Completion(str(p.what), "error", 0, REFUSED) for i, p in enumerate(found) if isinstance(p, Refused)}
    return [[] if isinstance(p, Refused) else p for p in found], refused
