"""Where the contract's messages lie in Valkey: the one place that names a key.

==========================  ======  ====================================================================================
key                         type    content
==========================  ======  ====================================================================================
``fb:key:{<d>}:<digest>``   string  ``KeyRecord``; digest = hex SHA-256 of the API key (keyed with the pepper if set),
                                    d = its first digit
``fb:policies:{0}``         string  ``Policies``
``fb:directory``            string  the generation for which every key record, account and policy was published
``fb:directory:{<d>}``      string  on a cluster instead, for each digit d: the generation for which the key records of
                                    this d (of 0: the policies too), and all accounts of that node, were published
``fb:{<account>}:e``        string  ``Account``
``fb:{<account>}:c``        hash    admission state: ``gen``, ``ver``, counters, rate-limit clocks (below)
``fb:{<account>}:o``        hash    open holds by rid, and tombstones of the last seconds
``fb:{<account>}:t``        string  rebuild token
==========================  ======  ====================================================================================

===============================  =====================================================================================
channel                          message
===============================  =====================================================================================
``fb:gateway:<name>:questions``  ``PendingQuestion``: what does this gateway have that the ledger does not?
``fb:gateway:<name>:answers``    ``PendingAnswer`` to a question that this gateway asked
===============================  =====================================================================================

Fields of ``c``
    ``gen``      generation of the server that this hash was loaded into; anything else than the caller's means: rebuild
    ``ver``      version of the ``Account`` that admission must be prepared from
    ``v:<s>/<q>@<t>``  units committed (settled + held) on quota q of subscription s in the period that began at t (ms)
    ``g:<s>``    GCRA theoretical arrival time of subscription s, microseconds
    ``n:<s>``    requests of subscription s that run now; kept only where its plan limits them

Values of ``o``
    a hold       ``<owners>;<counter>|<meter>|<units>,…``
                 owners: the workers that asked for it, joined by ``+``; it is given back when the last one gives up
                 meter ``~``: the request itself, on ``n:<s>``; it uses nothing, so that settling gives it back
    a suspect    ``?`` before a hold: rebuilt from a bare intent, never known to have been admitted
    a tombstone  ``!<ms>``: settled or voided; a delayed duplicate of its admission must not bring it back

A counter holds what is *committed*, settled and held together: admission needs only the sum, and settling a request at
the amount that was held (every count meter) touches no counter at all. At rest there are no holds, and the counters
equal the ledger.

All keys of one account share the hash tag ``{<account>}``: one script call checks all its limits, on any cluster shard.
Each sixteenth of the key records shares a slot with the mark that says whether it is complete: so one read at one node
says "nobody's key", and a node that has lost its memory cannot say it of another's.

A *generation* names one incarnation of a Valkey server: restart, failover and failback each give another one. Account
state and key directory that carry another generation are rebuilt before they are believed; so FLUSHALL, a lost AOF tail
and the promotion of a lagging replica cost a rebuild, never a wrong decision.
"""

POLICIES = "fb:policies:{0}"
DIRECTORY = "fb:directory"
PARTS = "0123456789abcdef"
"""The parts of the directory on a cluster. The policies belong to the first."""


def api_key(digest: str) -> str:
    return f"fb:key:{{{digest[0]}}}:{digest}"


def directory_part(part: str) -> str:
    """The mark of one part of the directory; for a key's digest, its first digit."""
    return f"{DIRECTORY}:{{{part}}}"


def questions(gateway: str) -> str:
    return f"fb:gateway:{gateway}:questions"


def answers(gateway: str) -> str:
    return f"fb:gateway:{gateway}:answers"


def account(account_id: str) -> str:
    return f"fb:{{{account_id}}}:e"


def counters(account_id: str) -> str:
    return f"fb:{{{account_id}}}:c"


def holds(account_id: str) -> str:
    return f"fb:{{{account_id}}}:o"


def rebuild_token(account_id: str) -> str:
    return f"fb:{{{account_id}}}:t"


def counter_field(subscription_id: str, quota_id: str, period_start_ms: int) -> str:
    """The field of ``counters(account)`` in which a quota's committed units of one period stand."""
    return f"v:{subscription_id}/{quota_id}@{period_start_ms}"


OPEN_REQUEST = "~"
"""The meter under which a hold counts the request itself. No slug has this form."""


def concurrency_field(subscription_id: str) -> str:
    return f"n:{subscription_id}"


def rate_field(subscription_id: str) -> str:
    return f"g:{subscription_id}"


def generation(info: dict[str, str]) -> str:
    """Name the incarnation of a server from the fields of its INFO reply.

    ``run_id`` changes with the process. ``master_replid`` changes with every promotion, also of a process that goes on
    running: without it a failback to a server that never restarted would pass for the old incarnation.
    """
    return f"{info['run_id'][:16]}.{info['master_replid'][:16]}"
