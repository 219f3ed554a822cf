"""What a response used: bytes in, quantities out. Pure and synchronous: no I/O, no clock, nothing that waits.

decoding     Content-Encoding undone, within bounds
framing      SSE, JSON lines, AWS event streams -> one JSON text at a time
providers    what model providers say about tokens, as data
body         BodyMeter: chunks -> Reading
expression   a policy's expressions: text -> Expression, Facts -> value
quantity     rules + Facts -> units per meter, dimensions
"""
