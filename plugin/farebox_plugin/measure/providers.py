"""What model providers say about tokens, as data: where a usage report stands and what its fields mean.

One thing differs that money depends on: whether a part is contained in its total. OpenAI's `prompt_tokens` contain the
cached ones, Anthropic's `input_tokens` do not; OpenAI's `completion_tokens` contain reasoning, Gemini's
`candidatesTokenCount` do not. `Usage` is normalised to what OpenTelemetry's GenAI conventions say: input contains cache
reads and writes, output contains reasoning.
https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-spans.md

Numbers come from outside: what is not a non-negative integer below 2**53 poisons its field for the whole response.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

COUNT_MAX = 1 << 53  # the largest integer every JSON implementation passes on unchanged

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response; None is a number that was not stated, or stated in a way that cannot be billed."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_creation_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """One provider's usage report: name of a count -> the fields that may state it, the billable one first.

    Counts ending in `_beside` are not contained in the provider's input or output and are added to it.
    """

    name: str
    marks: frozenset[str]  # any of these fields makes an object a report of this shape
    counts: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    output_may_be_absent: bool = False  # embeddings: what is not stated is zero


def _shape(name: str, marks: str, *, output_may_be_absent: bool = False, **counts: str) -> Shape:
    """`marks` and the fields of a count are separated by spaces, the steps of a path by dots."""
    paths = {count: tuple(tuple(path.split(".")) for path in fields.split()) for count, fields in counts.items()}
    return Shape(name, frozenset(marks.split()), paths, output_may_be_absent)


# The first shape whose mark is found reads the report.
SHAPES = (
    _shape(
        "openai chat, embeddings; mistral, deepseek, groq, vllm",
        "prompt_tokens completion_tokens",
        input="prompt_tokens",
        output="completion_tokens",
        total="total_tokens",
        cached="prompt_tokens_details.cached_tokens prompt_cache_hit_tokens cache_read_input_tokens",
        created="prompt_tokens_details.cache_write_tokens cache_creation_input_tokens",
        reasoning="completion_tokens_details.reasoning_tokens",
    ),
    _shape(
        "anthropic messages; openai responses",
        "input_tokens output_tokens cache_read_input_tokens cache_creation_input_tokens",
        input="input_tokens",
        output="output_tokens",
        total="total_tokens",
        cached="input_tokens_details.cached_tokens",
        cached_beside="cache_read_input_tokens",
        created_beside="cache_creation_input_tokens",
        reasoning="output_tokens_details.reasoning_tokens",
    ),
    _shape(
        "bedrock converse",
        "inputTokens outputTokens",
        input="inputTokens",
        output="outputTokens",
        total="totalTokens",
        cached_beside="cacheReadInputTokens",
        created_beside="cacheWriteInputTokens",
    ),
    _shape(
        "bedrock invoke",
        "inputTokenCount outputTokenCount",
        input="inputTokenCount",
        output="outputTokenCount",
        cached_beside="cacheReadInputTokenCount",
        created_beside="cacheWriteInputTokenCount",
    ),
    _shape(
        "gemini",
        "promptTokenCount candidatesTokenCount totalTokenCount",
        input="promptTokenCount",
        tools_beside="toolUsePromptTokenCount",
        output="candidatesTokenCount",
        total="totalTokenCount",
        cached="cachedContentTokenCount",
        reasoning_beside="thoughtsTokenCount",
    ),
    _shape(
        "cohere",
        "billed_units tokens",
        input="billed_units.input_tokens tokens.input_tokens",
        output="billed_units.output_tokens tokens.output_tokens",
        cached="cached_tokens",
        output_may_be_absent=True,
    ),
    _shape("jina, voyage", "total_tokens", total="total_tokens"),
)

# Where a report stands in a document or in an event of a stream.
PLACES: tuple[Path, ...] = (
    ("usage",),
    ("message", "usage"),  # anthropic: message_start
    ("response", "usage"),  # openai responses: response.completed
    ("delta", "usage"),  # cohere v2: message-end
    ("metadata", "usage"),  # bedrock: ConverseStream as the SDKs write it down
    ("x_groq", "usage"),
    ("usageMetadata",),  # gemini
    ("response", "usageMetadata"),
    ("amazon-bedrock-invocationMetrics",),
    ("meta",),  # cohere v1
    ("response", "meta"),  # cohere v1: stream-end
)
# A text without one of these says nothing about usage and need not be decoded; every OpenAI chunk says `usage: null`.
NEEDLES = rb'"usage(?:Metadata)?"(?!\s*:\s*null)|"billed_units"|"tokens"|"amazon-bedrock-invocationMetrics"'

MODEL_PLACES: tuple[Path, ...] = (("model",), ("message", "model"), ("response", "model"), ("modelVersion",))
MODEL_NEEDLES = rb'"model(?:Version)?"'

# A string that is not empty, under a name that carries generated text. A text of such an event is at least one token.
DELTA = re.compile(
    rb'"(?:content|text|delta|partial_json|thinking|reasoning_content|reasoning|arguments|refusal|response)"'
    rb'\s*:\s*"(?!")'
)


class Tally:
    """Collects what a response says about its usage, in one document or spread over the events of a stream.

    Providers repeat counts cumulatively, so the largest statement of each count stands.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._invalid: set[str] = set()
        self._output_may_be_absent = False
        self.misshapen = False  # a report was there and was no object

    @property
    def is_invalid(self) -> bool:
        return self.misshapen or bool(self._invalid)

    def add(self, document: object) -> set[str]:
        """Take in one JSON document; the names of the counts that it states."""
        stated: set[str] = set()
        for place in PLACES:
            report = at(document, place)
            if isinstance(report, dict):
                stated |= self._add_report(report)
            elif report is not None and place[-1] in ("usage", "usageMetadata"):
                self.misshapen = True
        return stated

    def usage(self) -> Usage | None:
        """The normalised counts; None if nothing was stated."""
        if not self._counts and not self._invalid:
            return None
        input_tokens, output_tokens = self._input(), self._output()
        total = self._counts.get("total")
        if total is not None:
            if input_tokens is None and output_tokens is not None and not self._poisoned("input"):
                input_tokens = max(total - output_tokens, 0)
            if output_tokens is None and input_tokens is not None and not self._poisoned("output"):
                output_tokens = max(total - input_tokens, 0)
        if output_tokens is None and self._output_may_be_absent and not self._poisoned("output"):
            output_tokens = 0
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=self._total(input_tokens, output_tokens),
            cached_input_tokens=self._part("cached", input_tokens),
            cache_creation_tokens=self._part("created", input_tokens),
            reasoning_tokens=self._part("reasoning", output_tokens),
        )

    def _add_report(self, report: dict[str, object]) -> set[str]:
        shape = next((shape for shape in SHAPES if not shape.marks.isdisjoint(report)), None)
        if shape is None:
            return set()
        names: set[str] = set()
        for name, paths in shape.counts.items():
            number = next((number for path in paths if (number := at(report, path)) is not None), None)
            if number is None:
                continue
            count = strict_count(number)
            if count is None:
                self._invalid.add(name)
                continue
            self._counts[name] = max(self._counts.get(name, 0), count)
            self._output_may_be_absent |= shape.output_may_be_absent
            names.add(name)
        return names

    def _input(self) -> int | None:
        names = ("input", "cached_beside", "created_beside", "tools_beside")
        if "input" not in self._counts or self._poisoned(*names):
            return None
        return sum(self._counts.get(name, 0) for name in names)

    def _output(self) -> int | None:
        names = ("output", "reasoning_beside")
        if self._poisoned(*names) or self._counts.keys().isdisjoint(names):
            return None
        output = sum(self._counts.get(name, 0) for name in names)
        reasoning = self._counts.get("reasoning", 0)
        # xAI speaks OpenAI's shape but leaves reasoning out of completion_tokens; its total gives that away.
        if reasoning and self._counts.get("total") == self._counts.get("input", 0) + output + reasoning:
            return output + reasoning
        return output

    def _poisoned(self, *names: str) -> bool:
        return not self._invalid.isdisjoint(names)

    def _total(self, input_tokens: int | None, output_tokens: int | None) -> int | None:
        if self._poisoned("total"):
            return None
        stated = self._counts.get("total")
        if input_tokens is None or output_tokens is None:
            return stated
        # A provider that reports cache tokens beside its input may leave them out of its total too.
        return max(stated or 0, input_tokens + output_tokens)

    def _part(self, name: str, whole: int | None) -> int | None:
        """A part of input or output: zero if the provider does not mention it, None if it is more than the whole."""
        if whole is None or self._poisoned(name, f"{name}_beside"):
            return None
        part = max(self._counts.get(name, 0), self._counts.get(f"{name}_beside", 0))
        return part if part <= whole else None


def model(document: object) -> str | None:
    """The model that answered, where the document names it."""
    for place in MODEL_PLACES:
        name = at(document, place)
        if isinstance(name, str) and name:
            return name
    return None


def at(document: object, path: Path) -> object:
    """What stands at a path of member names; None if nothing does."""
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def strict_count(value: object) -> int | None:
    """A JSON number that can be a count of tokens: an integer (12.0 is one) from 0 to 2**53; None for all else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        return None
    return value
