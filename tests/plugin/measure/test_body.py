import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace

import brotli
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from farebox_plugin.measure import body as body_module
from farebox_plugin.measure.body import DOCUMENT_BYTES_MAX, BodyMeter, Reading, Wants
from farebox_plugin.measure.decoding import DECODED_BYTES_MAX, PIECE_BYTES, RATIO_FLOOR_BYTES, ZSTD_WINDOW_BYTES_MAX
from farebox_plugin.measure.framing import TEXT_BYTES_MAX
from farebox_plugin.measure.providers import Usage

ALL = Wants(usage=True, document=True)
SSE = "text/event-stream"
Read = Callable[..., Reading]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODERS = {
    "gzip": [gzip.compress],
    "x-gzip": [lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])],
    "deflate": [zlib.compress, raw_deflate],
    "br": [brotli.compress],
    "zstd": [
        zstandard.ZstdCompressor().compress,
        lambda data: zstandard.ZstdCompressor().compress(data[:100]) + zstandard.ZstdCompressor().compress(data[100:]),
    ],
}
ENCODED = [(name, encode) for name, encoders in ENCODERS.items() for encode in encoders]


def sse(*documents: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(document) + b"\n\n" for document in documents)


def openai_chunk(text: str, usage: dict[str, object] | None = None) -> dict[str, object]:
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}}], "usage": usage}


# ---- what is read


def test_a_documented_body_is_read_as_its_provider_means_it(golden, read: Read) -> None:
    reading = read(golden.body, golden.content_type)
    assert reading.usage == golden.usage
    assert reading.model == golden.model
    assert reading.delta_count == golden.delta_count
    assert reading.body_bytes == len(golden.body)
    assert reading.flags == ()
    assert reading.complete


def test_where_a_body_is_cut_makes_no_difference(golden, read: Read) -> None:
    whole = read(golden.body, golden.content_type)
    for at in range(len(golden.body) + 1):
        assert read([golden.body[:at], golden.body[at:]], golden.content_type) == whole
    assert read([bytes([byte]) for byte in golden.body], golden.content_type) == whole


@pytest.mark.parametrize(("encoding", "encode"), ENCODED)
def test_a_compressed_body_is_read_like_the_plain_one(golden, read: Read, encoding: str, encode) -> None:
    plain = read(golden.body, golden.content_type)
    packed = encode(golden.body)
    expected = replace(plain, body_bytes=len(packed))
    assert read(packed, golden.content_type, encoding) == expected
    assert read([bytes([byte]) for byte in packed], golden.content_type, encoding) == expected


@pytest.mark.parametrize(
    "golden", ["openai_chat.sse", "openai_responses.sse", "anthropic.sse", "gemini.sse", "cohere_v2.sse"], indirect=True
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_server_sent_events_is_understood(golden, read: Read, line_end: bytes) -> None:
    body = golden.body.replace(b"\r\n", b"\n").replace(b"\n", line_end)
    for chunks in ([body], [bytes([byte]) for byte in body]):
        reading = read(chunks, SSE)
        assert (reading.usage, reading.delta_count) == (golden.usage, golden.delta_count)


def test_an_event_may_spread_its_json_over_several_data_lines(read: Read) -> None:
    body = b'\xef\xbb\xbfdata: {"usage":\ndata:{"prompt_tokens":3,\n: comment\nid: 7\ndata: "completion_tokens":4}}\n\n'
    assert read(body, SSE).usage == Usage(3, 4, 7, 0, 0, 0)
    with_crlf = body.replace(b"\n", b"\r\n")
    assert read([bytes([byte]) for byte in with_crlf], SSE).usage == Usage(3, 4, 7, 0, 0, 0)


def test_a_usage_event_counts_although_the_last_line_end_is_missing(read: Read) -> None:
    body = sse(openai_chunk("a"), openai_chunk("", {"prompt_tokens": 3, "completion_tokens": 4}))
    assert read(body.rstrip(b"\n"), SSE).usage == Usage(3, 4, 7, 0, 0, 0)
    assert read(body.replace(b"data: ", b"").replace(b"\n\n", b"\n")[:-1], "application/jsonl").usage == Usage(
        3, 4, 7, 0, 0, 0
    )


def test_events_without_usage_or_model_are_never_decoded(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    parse = body_module._parse
    monkeypatch.setattr(body_module, "_parse", lambda text: decoded.append(bytes(text)) or parse(text))
    words = [openai_chunk(word) for word in ("a", "b", "c")]
    reading = read(
        sse(*words, openai_chunk("", {"prompt_tokens": 3, "completion_tokens": 4})), SSE, wants=Wants(usage=True)
    )
    assert reading.model == "m"
    assert len(decoded) == 2  # the first, for the model, and the last, for the usage


def test_nothing_is_read_where_nothing_is_wanted(golden, read: Read) -> None:
    reading = read(golden.body, golden.content_type, "nonsense", wants=Wants())
    assert reading == Reading(body_bytes=len(golden.body))


def test_the_document_of_a_json_body_is_the_whole_of_it(read: Read) -> None:
    assert read(b'{"data": {"images": [1, 2]}}').document == {"data": {"images": [1, 2]}}
    assert read(b"[1, 2]", "application/problem+json").document == [1, 2]


def test_the_document_of_a_stream_is_its_last_usage_with_the_wanted_roots_over_it(read: Read) -> None:
    body = sse({"cost": 1, "x": 1}, {"usage": {"prompt_tokens": 1}, "y": 2}, {"cost": 5}, {"z": 1})
    assert read(body, SSE).document == {"usage": {"prompt_tokens": 1}, "y": 2}
    wants = Wants(document=True, roots=frozenset({"cost"}))
    assert read(body, SSE, wants=wants).document == {"usage": {"prompt_tokens": 1}, "y": 2, "cost": 5}


def test_a_root_may_have_any_name(read: Read) -> None:
    body = sse({'a+"b"': 5}, {"z": 1})
    assert read(body, SSE, wants=Wants(document=True, roots=frozenset({'a+"b"'}))).document == {'a+"b"': 5, "z": 1}


def test_the_document_of_a_stream_without_usage_is_its_last_object(read: Read) -> None:
    assert read(b'{"a": 1}\n{"a": 2}\n\n\n', "application/x-ndjson").document == {"a": 2}


# ---- where a stream ends early


def test_deltas_are_counted_from_the_last_statement_of_output_on(read: Read) -> None:
    stated = {"prompt_tokens": 3, "completion_tokens": 7}
    body = sse(openai_chunk("a"), openai_chunk("b", stated), openai_chunk("c"), openai_chunk("d"))
    reading = read(body, SSE, complete=False)
    assert (reading.delta_count, reading.uncounted_deltas) == (4, 2)
    assert reading.usage == Usage(3, 7, 10, 0, 0, 0)
    assert reading.flags == ("aborted",)
    assert not reading.complete


def test_a_statement_of_input_alone_counts_no_delta(read: Read) -> None:
    body = sse(openai_chunk("a"), openai_chunk("b"), {"usage": {"input_tokens": 5}})
    assert read(body, SSE, complete=False).uncounted_deltas == 2


def test_empty_deltas_and_names_alone_are_no_generated_text(read: Read) -> None:
    body = sse(openai_chunk(""), {"delta": {"content": None}}, {"delta": {"text": ""}}, {"text": 3}, {"role": "text"})
    assert read(body, SSE).delta_count == 0


def test_a_json_body_that_was_cut_says_nothing(read: Read) -> None:
    reading = read(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 5}', complete=False)
    assert (reading.usage, reading.flags) == (None, ("aborted",))


# ---- what cannot be read


@pytest.mark.parametrize(
    ("content_type", "encoding", "body", "flag"),
    [
        ("text/html", "", b"<p>", "unsupported_content_type"),
        ("", "", b"{}", "unsupported_content_type"),
        ("application/json", "gzip", b"{}", "undecodable"),
        ("application/json", "deflate", b"\xff\xff\xff", "undecodable"),
        ("application/json", "br", b"\xff" * 40, "undecodable"),
        ("application/json", "zstd", b"{}garbage", "undecodable"),
        ("application/json", "lzma", b"{}", "undecodable"),
        ("application/json", "gzip, br", gzip.compress(b"{}", mtime=0), "undecodable"),
        ("application/vnd.amazon.eventstream", "", b"not a frame, not a frame", "undecodable"),
        ("application/json", "", b'{"usage": ', "unparsable"),
        ("application/json", "", b'{"usage": {"prompt_tokens": NaN}}', "unparsable"),
        ("application/json", "", b"[" * 100_000, "unparsable"),
        ("application/x-ndjson", "", b'{"usage": {{}\n', "unparsable"),
    ],
)
def test_a_body_that_cannot_be_read_is_flagged(
    read: Read, content_type: str, encoding: str, body: bytes, flag: str
) -> None:
    reading = read(body, content_type, encoding)
    assert (reading.flags, reading.usage) == ((flag,), None)
    assert reading.body_bytes == len(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_padding_behind_a_compressed_body_is_ignored(read: Read, encoding: str) -> None:
    packed = ENCODERS[encoding][0](b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}')
    for chunks in ([packed, bytes(9)], [bytes([byte]) for byte in packed + bytes(9)]):
        reading = read(chunks, encoding=encoding)
        assert (reading.usage, reading.flags) == (Usage(3, 4, 7, 0, 0, 0), ())


@pytest.mark.parametrize(("encoding", "encode"), ENCODED)
def test_output_beyond_one_piece_comes_out_whole(read: Read, encoding: str, encode) -> None:
    for length in (PIECE_BYTES - 8, *range(PIECE_BYTES - 2, PIECE_BYTES + 3), PIECE_BYTES + 200, 3 * PIECE_BYTES):
        assert read(encode(b'"' + b"0" * length + b'"'), encoding=encoding).document == "0" * length


def test_what_was_read_before_the_body_broke_is_kept(read: Read) -> None:
    stream = zlib.compressobj(wbits=31)
    start = stream.compress(sse(openai_chunk("a"), openai_chunk("b"))) + stream.flush(zlib.Z_SYNC_FLUSH)
    reading = read([start, b"\xff" * 99], SSE, "gzip")
    assert (reading.delta_count, reading.flags, reading.complete) == (2, ("undecodable",), False)


def test_a_document_whose_encoding_broke_is_not_believed(read: Read) -> None:
    stream = zlib.compressobj(wbits=31)
    start = stream.compress(b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}') + stream.flush(
        zlib.Z_SYNC_FLUSH
    )
    assert read([start, b"\xff" * 99], encoding="gzip").usage is None


# ---- bounds


def bomb(encoding: str, size: int) -> bytes:
    zeros = b"0" * size
    if encoding == "br":
        return brotli.compress(zeros, quality=5)
    return ENCODERS[encoding][0](zeros)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("content_type", ["application/json", SSE])
def test_a_bomb_is_given_up_within_its_bounds(encoding: str, content_type: str) -> None:
    packed = bomb(encoding, 3 * DECODED_BYTES_MAX)
    meter = BodyMeter(content_type, encoding, ALL)
    tracemalloc.start()
    try:
        meter.feed(packed)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reading = meter.finish(complete=True)
    assert "undecodable" in reading.flags
    assert reading.usage is None
    assert peak_bytes < 2 * DOCUMENT_BYTES_MAX + ZSTD_WINDOW_BYTES_MAX


def test_the_ratio_binds_before_the_total_does(read: Read) -> None:
    packed = bomb("zstd", 8 * RATIO_FLOOR_BYTES)
    assert len(packed) < 2000
    assert "undecodable" in read(packed, SSE, "zstd").flags
    assert "undecodable" not in read(b"0" * (8 * RATIO_FLOOR_BYTES), SSE).flags


def test_the_total_binds_where_the_ratio_does_not(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    monkeypatch.setattr("farebox_plugin.measure.decoding.DECODED_BYTES_MAX", 1000)
    assert read(gzip.compress(sse({"a": "x" * 960})), SSE, "gzip").flags == ()
    assert read(gzip.compress(sse({"a": "x" * 1000})), SSE, "gzip").flags == ("undecodable",)


def test_a_zstd_window_beyond_what_http_allows_is_refused(read: Read) -> None:
    def packed(window_log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(window_log=window_log)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return compressor.compress(b"{}") + compressor.flush()

    assert read(packed(23), encoding="zstd").document == {}
    assert read(packed(24), encoding="zstd").flags == ("undecodable",)


@pytest.mark.parametrize("chunk_bytes", [4096, 3 << 20])
def test_a_document_beyond_its_bound_is_flagged_and_let_go(read: Read, chunk_bytes: int) -> None:
    body = orjson.dumps({"text": "x" * DOCUMENT_BYTES_MAX, "usage": {"prompt_tokens": 1}})
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
    assert read(chunks) == Reading(body_bytes=len(body), flags=("oversized",))


@pytest.mark.parametrize("chunk_bytes", [4096, 2 << 20])
def test_a_line_beyond_its_bound_is_skipped_and_the_stream_goes_on(read: Read, chunk_bytes: int) -> None:
    long = sse(openai_chunk("x" * TEXT_BYTES_MAX, {"prompt_tokens": 999, "completion_tokens": 999}))
    body = sse(openai_chunk("a")) + long + sse(openai_chunk("", {"prompt_tokens": 3, "completion_tokens": 4}))
    for content_type, stream in (
        (SSE, body),
        ("application/x-ndjson", body.replace(b"data: ", b"").replace(b"\n\n", b"\n")),
    ):
        chunks = [stream[at : at + chunk_bytes] for at in range(0, len(stream), chunk_bytes)]
        reading = read(chunks, content_type)
        assert (reading.flags, reading.usage) == (("oversized",), Usage(3, 4, 7, 0, 0, 0))


def test_an_event_of_many_lines_is_bounded_too(read: Read) -> None:
    line = b"data: " + b"x" * 1000 + b"\n"
    reading = read(line * 3000 + b"\n" + sse({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}), SSE)
    assert (reading.flags, reading.usage) == (("oversized",), Usage(3, 4, 7, 0, 0, 0))


def frame(payload: bytes, frame_bytes: int | None = None) -> bytes:
    size = 16 + len(payload) if frame_bytes is None else frame_bytes
    prelude = size.to_bytes(4, "big") + bytes(4)
    return prelude + zlib.crc32(prelude).to_bytes(4, "big") + payload + bytes(4)


@pytest.mark.parametrize("frame_bytes", [0, 1, 12, 15])
def test_a_frame_shorter_than_its_own_frame_ends_the_reading(read: Read, frame_bytes: int) -> None:
    assert read(frame(b"", frame_bytes), "application/vnd.amazon.eventstream").flags == ("undecodable",)


def test_a_frame_whose_inner_base64_is_broken_is_passed_over(read: Read) -> None:
    usage = frame(b'{"usage":{"inputTokens":1,"outputTokens":2}}')
    for broken in (b'{"bytes":"abc"}', b'{"bytes":"', b'{"bytes":"\xff"}'):
        assert read(frame(broken) + usage, "application/vnd.amazon.eventstream").usage == Usage(1, 2, 3, 0, 0, 0)


def test_a_frame_beyond_its_bound_is_skipped_and_the_stream_goes_on(read: Read) -> None:
    usage = frame(b'{"usage":{"inputTokens":1,"outputTokens":2}}')
    reading = read([frame(b"x" * (2 << 20)) + usage], "application/vnd.amazon.eventstream")
    assert (reading.flags, reading.usage) == (("oversized",), Usage(1, 2, 3, 0, 0, 0))


# ---- any input

content_types = st.sampled_from(
    ["application/json", SSE, "application/x-ndjson", "application/vnd.amazon.eventstream", "text/plain", "", ";;"]
)
FRAGMENTS = [
    b"data: ", b"\n", b"\r", b"\n\n", b'{"usage":', b'{"prompt_tokens":', b"5", b"-1", b"1e999", b"true", b"null", b"}",
    b'"model":', b'"billed_units"', b'"content":"x"', b"[", b"]", b",", b"\xff\xfe", b"[DONE]", b'{"bytes":"!!"}',
    b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x78\x9c", b"\x00\x00\x00\x10\x00\x00\x00\x00\x05\xc2\x48\xeb",
]  # fmt: skip
chunks = st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(FRAGMENTS)), max_size=40)


@given(chunks, content_types, st.sampled_from(["", "gzip", "deflate", "br", "zstd", "x", "gzip,br"]), st.booleans())
def test_no_bytes_whatever_raise(chunks: list[bytes], content_type: str, encoding: str, complete: bool) -> None:
    meter = BodyMeter(content_type, encoding, Wants(usage=True, document=True, roots=frozenset({"content", "a\\b"})))
    for chunk in chunks:
        meter.feed(chunk)
    reading = meter.finish(complete=complete)
    assert reading.body_bytes == sum(map(len, chunks))
    assert 0 <= reading.uncounted_deltas <= reading.delta_count


NAMES = (
    "usage", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "message", "meta",
    "response", "billed_units", "tokens", "usageMetadata", "totalTokenCount", "completion_tokens_details",
    "reasoning_tokens", "model", "delta",
)  # fmt: skip
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.booleans() | st.none() | st.text("09-", max_size=5)
documents = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
)


@given(documents, st.data())
def test_no_json_whatever_gives_a_negative_count(document: object, data: st.DataObject) -> None:
    text = orjson.dumps(document)
    cut = data.draw(st.integers(0, len(text)))
    for content_type in ("application/json", "application/x-ndjson"):
        meter = BodyMeter(content_type, "", ALL)
        meter.feed(text[:cut])
        meter.feed(text[cut:])
        usage = meter.finish(complete=True).usage
        if usage is not None:
            for count in (getattr(usage, name) for name in Usage.__slots__):
                assert count is None or (type(count) is int and count >= 0)
