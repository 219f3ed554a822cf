"""One invoice is brought as far as it goes: step by step at the provider, and what came of it written into our books.

    lease the customer ── read ours ── read theirs ── next step ── … ── rest: merge ── when to look again

`advance` is the only way in, whoever found out that something may have changed: the clock, a webhook, a person who came
back from a page. It can be called at any time, any number of times. No transaction is open while the provider is asked.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine
from sqlmodel import Session, func, select

from farebox_portal import audit
from farebox_portal.db import transaction
from farebox_portal.invoicing import actions, profiles, standing, tax
from farebox_portal.invoicing.checks import MoneyFault
from farebox_portal.invoicing.minimum import minimum_minor
from farebox_portal.invoicing.status import OPEN
from farebox_portal.invoicing.tables import Invoice, InvoiceLine
from farebox_portal.invoicing.terms import Terms
from farebox_portal.payments import asked, dunning
from farebox_portal.payments.account import note_fault
from farebox_portal.payments.gateway import (
    Busy,
    Declined,
    Gateway,
    GatewayFailure,
    Lacking,
    Missing,
    Rejected,
    RemoteInvoice,
    Unauthorized,
    Unknown,
)
from farebox_portal.payments.operations import Overtaken, Seen, conclude, perform, seen_of
from farebox_portal.payments.pace import back_off
from farebox_portal.payments.payers import ensure_payer, lease, payer_of, refresh, release
from farebox_portal.payments.steps import (
    LINES_MAX,
    Adopt,
    Claim,
    Rest,
    Send,
    Stop,
    Tax,
    Wish,
    is_done,
    next_step,
)
from farebox_portal.payments.tables import Collection, PaymentAccount
from farebox_portal.payments.tax import ask_names, items_of
from farebox_portal.payments.tax_items import on_lines
from farebox_portal.pricing.money import currency

log = structlog.get_logger(__name__)

LEASE = timedelta(minutes=2)
LEASE_OF_LINE = timedelta(seconds=1)
"""Each line is a request of its own, and has to wait for its turn (see `pace`)."""
POLL = timedelta(minutes=10)
BROKEN = timedelta(minutes=5)
TAX_TRIED_AGAIN = timedelta(days=1)
REJECTED_MAX = 3
STEPS_MAX = 700


@dataclass(frozen=True)
class Desk:
    """What collecting needs."""

    engine: Engine
    gateway: Gateway
    terms: Terms


def advance(desk: Desk, account: PaymentAccount, invoice_id: str, now: datetime) -> None:
    """Bring it as far as it goes now. Does nothing while somebody else is at this customer."""
    with transaction(desk.engine, read_only=True) as session:
        row = session.get(Collection, invoice_id)
        lines = session.exec(select(func.count()).where(InvoiceLine.invoice_id == invoice_id)).one()
    until = now + LEASE + min(lines, LINES_MAX) * LEASE_OF_LINE
    if row is None or not lease(desk.engine, row.customer_id, now, until):
        return
    try:
        with transaction(desk.engine) as session:
            taken = session.get_one(Collection, invoice_id)
            taken.look_at = until  # whoever has something new sets it back, and is not overwritten
            session.add(taken)
        _Run(desk, account, invoice_id, now, until).run()
    finally:
        release(desk.engine, row.customer_id, until)


class _Run:
    """One time that an invoice is advanced."""

    def __init__(self, desk: Desk, account: PaymentAccount, invoice_id: str, now: datetime, until: datetime) -> None:
        self.desk = desk
        self.account = account
        self.invoice_id = invoice_id
        self.now = now
        self.until = until
        self.seen: Seen = {}
        self.rejected: dict[str, int] = {}
        self.guess: RemoteInvoice | None = None  # a draft as it must be after what was just added to it

    def run(self) -> None:
        for _ in range(STEPS_MAX):
            try:
                if not self._step():
                    return
            except (Unknown, Busy, Rejected) as failure:  # the last: while reading
                self._later(failure.code)
                return
            except MoneyFault as fault:  # of ours; nothing is charged before somebody has looked
                log.error("money_fault", invoice=self.invoice_id, rule=str(fault))
                self._stop(Stop("arithmetic"))
                return
            except (Unauthorized, Lacking) as failure:  # nothing more is sent before somebody has mended the key
                status = "unauthorized" if isinstance(failure, Unauthorized) else "lacking"
                with transaction(self.desk.engine) as session:
                    note_fault(session, status, failure.detail, self.now)
                self._later(failure.code, BROKEN)
                return
        self._later("endless")

    def _step(self) -> bool:
        """Whether it goes on."""
        claim = self._claim()
        if claim is None:
            return False
        found = [self.guess] if self.guess is not None else self._found(claim)
        if found is None:
            return True
        step = next_step(claim, found)
        if isinstance(step, Send) and step.step != "line" and self.guess is not None:
            self.guess = None  # nothing is final before it was read
            return True
        match step:
            case Send():
                return self._send(claim, step)
            case Stop():
                self._stop(step)
                return False
            case Adopt():
                return self._adopt(step)
            case Rest():
                return self._rest(claim, step)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _claim(self) -> Claim | None:
        """None: there is nothing to ask of the provider."""
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            invoice = session.get_one(Invoice, self.invoice_id)
            wish = self._wish(session, row, invoice)
            if wish is None:
                return None
            wants_tax: Tax = "awaited" if tax.is_awaited(invoice) else "none"
            lines = asked.lines(session, invoice) if wants_tax == "none" else asked.taxed_lines(session, invoice)
            if wish == "collect" and self.guess is None:
                asked.last_look(session, invoice, lines)
            payer = payer_of(session, row.customer_id, self.now)
            is_due = row.pay_at is not None and row.pay_at <= self.now and payer.method_id is not None
            known = payer.provider_id
        if known is None and wish == "collect":
            known = ensure_payer(self.desk.engine, self.desk.gateway, self.account, row.customer_id, self.now)
        # Without a customer nothing new is made; what there is, is that of one who was deleted there.
        has_failed = row.state == "failed" and wish == "collect"
        return Claim(
            invoice_id=invoice.id,
            instance=self.account.instance,
            customer=known or "",
            number=invoice.number,
            currency=invoice.currency,
            lines=lines,
            wish=wish,
            is_due=is_due,
            tax=wants_tax,
            is_retried_there=self.desk.terms.retries_by_provider and has_failed,
        )

    def _wish(self, session: Session, row: Collection, invoice: Invoice) -> Wish | None:
        is_over = row.failed_at is not None and self.now >= dunning.ends_at(row.failed_at)
        if row.state == "action_required" and is_over and not self.desk.terms.retries_by_provider:
            _give_up(session, row, invoice, self.now)
        if invoice.status == "uncollectible":
            return "collect" if row.pay_at is not None and row.pay_at <= self.now else "give_up"
        if tax.is_awaited(invoice):
            return "collect"
        if invoice.status in OPEN:
            least = max(1, minimum_minor(currency(invoice.currency)))
            if invoice.outstanding_minor >= least:
                return "collect"
            if row.provider_id is None:  # it is not worth a charge, and nothing else is to be done about it
                row.look_at, row.fault, row.updated_at = None, "below_minimum", self.now
                session.add(row)
                return None
            return "cancel"
        return "keep" if row.state == "done" else "cancel"

    def _found(self, claim: Claim) -> list[RemoteInvoice] | None:
        """None: what was known is not the one any more; begin anew."""
        with transaction(self.desk.engine, read_only=True) as session:
            known = session.get_one(Collection, self.invoice_id).provider_id
            self.seen = seen_of(session, self.invoice_id)
        if known is None:
            if not claim.customer:
                return []
            rows = self.desk.gateway.invoices(claim.customer, claim.instance, claim.invoice_id)
            ours = [one for one in rows if not self._is_replaced(one)]
            if len(ours) == 1:
                self._conclude(ours[0])
            return ours
        try:
            remote = self.desk.gateway.invoice(known)
        except Missing:  # a draft that somebody has deleted there
            return []
        self._conclude(remote)
        return None if self._is_replaced(remote) and self._forget(remote.id) else [remote]

    def _conclude(self, remote: RemoteInvoice) -> None:
        conclude(self.desk.engine, self.invoice_id, self.seen, lambda step: is_done(step, remote), self.now)

    def _is_replaced(self, remote: RemoteInvoice) -> bool:
        """Whether it was us who voided it. By somebody else, it is a word on the invoice and not on its copy."""
        _, state = self.seen.get(f"void:{remote.id}", (0, "failed"))
        return remote.status == "void" and state != "failed"

    # --- doing -------------------------------------------------------------------------------------------------------

    def _send(self, claim: Claim, send: Send) -> bool:
        name = f"{send.step}:{send.part}"
        try:
            done = perform(
                self.desk.engine, self.desk.gateway, self.account.instance, self.invoice_id, send.step, send.request,
                self.now, part=send.part, seen=self.seen, declined=self._declined,
            )  # fmt: skip
        except Overtaken:
            self.guess = None
            return True
        except Declined:
            return True
        except Rejected as rejected:
            self.guess = None
            if claim.tax == "awaited" and rejected.is_of_tax:
                return self._lacks_tax(rejected.code)
            self.rejected[name] = self.rejected.get(name, 0) + 1
            return self._rejected(send, rejected, self.rejected[name])
        if send.step == "invoice":
            self._remember(done.id)
            if not any(step.startswith("line:") for step in self.seen):  # nobody has come as far as that before
                self.guess = RemoteInvoice(done.id, claim.invoice_id, claim.customer, "draft", claim.currency, 0)
        elif send.step == "line":
            self.guess = self._with_line(claim, send)
        elif send.step in ("delete", "void"):
            self._forget(send.request["id"])
        return True

    def _rejected(self, send: Send, rejected: Rejected, times: int) -> bool:
        """What is refused is read again first: somebody may have done it already. Then it is for people to see."""
        if isinstance(rejected, Missing) and times == 1:
            with transaction(self.desk.engine, read_only=True) as session:
                customer_id = session.get_one(Collection, self.invoice_id).customer_id
            refresh(self.desk.engine, self.desk.gateway, self.account, customer_id, self.now)
            return True
        if rejected.is_passing:
            if times >= REJECTED_MAX:
                self._later(rejected.code)
                return False
            return True
        if times == 1:
            return True
        if send.step == "pay":
            return self._failed(rejected.code)
        self._stop(Stop(f"rejected_{send.step}_{rejected.code}"))
        return False

    def _with_line(self, claim: Claim, send: Send) -> RemoteInvoice:
        before = self.guess or (self._found(claim) or [])[0]
        entry = (send.part, send.request["amount_minor"])
        return before if entry in before.lines else replace(before, lines=(*before.lines, entry))

    # --- writing -----------------------------------------------------------------------------------------------------

    def _remember(self, provider_id: str) -> None:
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            row.provider_id, row.troubles, row.updated_at = provider_id, 0, self.now
            session.add(row)

    def _forget(self, provider_id: str) -> bool:
        """It is gone there, so that another one may be made if one is still wanted; whether it is."""
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            invoice = session.get_one(Invoice, self.invoice_id)
            is_wanted = invoice.status in asked.UNPAID or tax.is_awaited(invoice)
            if is_wanted and row.provider_id == provider_id:
                row.provider_id = None
                session.add(row)
            return is_wanted

    def _adopt(self, adopted: Adopt) -> bool:
        """Its taxes onto our lines, and ours is issued: from here on both say the same."""
        gateway, of = self.desk.gateway, currency(adopted.remote.currency)
        with transaction(self.desk.engine, read_only=True) as session:
            items = items_of(session, session.get_one(Invoice, self.invoice_id))
        found = gateway.line_taxes(adopted.remote.id)
        taxes = on_lines(items, found, ask_names(gateway, adopted.remote, items), of)
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            invoice = session.get_one(Invoice, self.invoice_id)
            row.provider_id, row.fault = adopted.remote.id, None
            session.add(row)
            on_top = sum(one["amountMinor"] for all_ in taxes.values() for one in all_ if not one["isInclusive"])
            if invoice.subtotal_minor + on_top == adopted.remote.total_minor:
                invoice.provider, invoice.provider_id, invoice.provider_url = (
                    "stripe", adopted.remote.id, adopted.remote.url,
                )  # fmt: skip
                tax.adopt(session, invoice, taxes, self.desk.terms, self.now)
                return True
        self._stop(Stop("tax_differs", adopted.remote))
        return False

    def _lacks_tax(self, code: str) -> bool:
        """The tax cannot be worked out: as the billing profile says, without it, or not at all."""
        with transaction(self.desk.engine) as session:
            invoice = session.get_one(Invoice, self.invoice_id)
            if profiles.tax_mode(profiles.default(session)) != "strict":
                tax.leave_out(session, invoice, code, self.desk.terms, self.now)
                return True
            tax.fail(session, invoice, code, self.now)
            row = session.get_one(Collection, self.invoice_id)
            row.fault, row.updated_at = code, self.now
            self._set_look(row, self.now + TAX_TRIED_AGAIN)
            session.add(row)
        log.warning("tax_failed", invoice=self.invoice_id, code=code)
        return False

    def _rest(self, claim: Claim, rest: Rest) -> bool:
        """Merge what the provider says, forward only. Whether it goes on."""
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            invoice = session.get_one(Invoice, self.invoice_id)
            actions.lock(session, invoice)
            if rest.remote is not None:
                row.provider_id = rest.remote.id
                invoice.provider_id, invoice.provider_url = rest.remote.id, rest.remote.url or invoice.provider_url
            row.troubles = 0
            if row.state == "waiting":
                row.fault = None
            session.add(row)
            session.add(invoice)
            session.flush()
            if invoice.failed_at is not None:
                standing.tell(session, invoice.subscription_id)
            lacks_method = self._merge(session, row, invoice, rest)
        if rest.status == "paid" and self.seen.get("pay", (0, "failed"))[1] == "failed":
            self._take_card_over(row.customer_id)
        return lacks_method and self._failed("no_payment_method")

    def _take_card_over(self, customer_id: str) -> None:
        """A person has paid on the provider's page, with a card that is kept. Without webhooks nobody else says so."""
        with suppress(GatewayFailure):
            refresh(self.desk.engine, self.desk.gateway, self.account, customer_id, self.now, prefers_latest=True)

    def _merge(self, session: Session, row: Collection, invoice: Invoice, rest: Rest) -> bool:
        """Whether it would be tried now, if there were something to pay with."""
        is_open = invoice.status in OPEN
        if rest.status == "paid" and (is_open or invoice.status == "uncollectible"):
            reference = rest.remote.id if rest.remote else None
            actions.pay(session, invoice, self.desk.terms, self.now, reference)
        elif rest.status == "void" and (is_open or invoice.status == "uncollectible" or tax.is_awaited(invoice)):
            actions.void(session, invoice, self.desk.terms, self.now)
        elif rest.status == "uncollectible" and is_open:
            actions.mark_uncollectible(session, invoice, self.now)
        elif rest.status == "open" and is_open:
            if row.pay_at is not None and row.pay_at <= self.now:
                return True
            self._look_again(row)
            return False
        row.state = "failed" if invoice.status == "uncollectible" else "done"
        row.pay_at = None
        row.fault = row.fault if row.state == "failed" else None
        self._set_look(row, None)
        row.updated_at = self.now
        session.add(row)
        return False

    def _failed(self, code: str) -> bool:
        with transaction(self.desk.engine) as session:
            self._note_try(session, code, needs_action=False)
        return True

    def _declined(self, session: Session, declined: Declined) -> None:
        self._note_try(session, declined.code or "declined", needs_action=declined.needs_action)

    def _note_try(self, session: Session, code: str, *, needs_action: bool) -> None:
        """A try definitely failed: the days of grace run, and the next try has its day, or there is none any more."""
        row = session.get_one(Collection, self.invoice_id)
        invoice = session.get_one(Invoice, self.invoice_id)
        row.failed_at = row.failed_at or self.now
        row.tries += 1
        row.state = "action_required" if needs_action else "failed"
        row.fault = code
        by_provider = self.desk.terms.retries_by_provider
        row.pay_at = None if needs_action or by_provider else dunning.next_try(row.failed_at, self.now)
        row.updated_at = self.now
        self._look_again(row)
        session.add(row)
        if invoice.status in OPEN:
            actions.note_failure(session, invoice, self.now, code, needs_action=needs_action)
        if row.pay_at is None and not needs_action and not by_provider and invoice.status in OPEN:
            _give_up(session, row, invoice, self.now)
        log.warning("payment_failed", invoice=self.invoice_id, code=code, needs_action=needs_action)

    def _look_again(self, row: Collection) -> None:
        ends = dunning.ends_at(row.failed_at) if row.state == "action_required" and row.failed_at else None
        moments = [at for at in (row.pay_at, ends) if at is not None and at > self.now]
        self._set_look(row, min([self.now + POLL, *moments]))

    def _set_look(self, row: Collection, at: datetime | None) -> None:
        if row.look_at == self.until:  # nobody has woken it meanwhile
            row.look_at = at

    def _later(self, code: str, pause: timedelta | None = None) -> None:
        """Nobody knows, or nobody listened: nothing has failed."""
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            row.troubles += 1
            row.fault, row.updated_at = code, self.now
            self._set_look(row, self.now + (pause or back_off(row.troubles)))
            session.add(row)

    def _stop(self, stop: Stop) -> None:
        with transaction(self.desk.engine) as session:
            row = session.get_one(Collection, self.invoice_id)
            row.state, row.fault, row.updated_at = "stopped", stop.reason, self.now
            row.look_at = None
            if stop.remote is not None:
                row.provider_id = stop.remote.id
            session.add(row)
            audit.record(session, "invoice.collection_stopped", "invoice", self.invoice_id, self.now,
                         after={"reason": stop.reason})  # fmt: skip
        log.error("collection_stopped", invoice=self.invoice_id, reason=stop.reason)


def _give_up(session: Session, row: Collection, invoice: Invoice, now: datetime) -> None:
    if invoice.status in OPEN:
        actions.mark_uncollectible(session, invoice, now)
    row.state, row.pay_at, row.updated_at = "failed", None, now
    session.add(row)
