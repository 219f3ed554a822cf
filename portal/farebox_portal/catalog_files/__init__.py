"""The catalog as code: what is sold, in YAML files, applied to one portal after another.

reading    YAML (and so JSON) -> values, and the line on which each of them stands
files      several files -> one catalog document
document   what a catalog document may hold, and what became of it
compare    what differs between what is wanted and what is there (pure)
apply      a catalog document -> the catalog, all of it or nothing
prune      what is not in it goes
export     the catalog -> a document
routes     GET /v1/catalog, POST /v1/catalog/apply
remote     the portal that the commands talk to
commands   farebox apply, export, diff
"""
