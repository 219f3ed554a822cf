"""What the bench's routes answer: the same chat completion as one JSON document and as a stream of events."""

import json

from farebox_portal.demo.completions import Chat, openai_answer, openai_events

TOKENS = 40
QUESTION = {"model": "sample-small", "messages": [{"role": "user", "content": "what does a request cost"}]}
_CHAT = Chat.model_validate(QUESTION | {"max_tokens": TOKENS})
_ID, _CREATED_S = "b" * 29, 1_741_569_952

JSON_ANSWER = json.dumps(openai_answer(_CHAT, _ID, _CREATED_S))
SSE_EVENTS = tuple(openai_events(_CHAT, _ID, _CREATED_S))  # the role, 40 words, the end, the usage, [DONE]
SSE_ANSWER = b"".join(SSE_EVENTS).decode()
DOWNLOAD = "b" * 4096

# What the ledger gets for one answer, by policy.
UNITS = {
    "default": {"api_requests": 1},
    "bytes": {"egress_bytes": len(DOWNLOAD)},
    "chat": {"api_requests": 1, "input_tokens": _CHAT.input_tokens, "output_tokens": TOKENS},
    "capped": {"api_requests": 1, "output_tokens": TOKENS},
}
