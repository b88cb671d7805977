"""For each way in which `machine_teeth` breaks the engine, directed tests that fail on it.

The random machine finds many of them by itself. For some it is the wrong tool: they need several rare
things one after the other, and a budget of hours; or what they break costs no data by itself, such as a
belt that another one backs up. Here is what notices those, and the others as well.
"""

from __future__ import annotations

from collections.abc import Callable

from bubu_storage.retention.reasons import Reason
from bubu_storage.retention.rules import KEEP_CHAIN
from tests.unit.retention import (
    test_claim,
    test_delete,
    test_judge,
    test_owned_passes,
    test_owner_rules,
    test_pipeline,
    test_references,
    test_rules,
    test_runner,
    test_scan,
    test_tally,
    test_void_marks,
)
from tests.unit.retention.directed import noticed

Directed = Callable[[], bool]

_fresh = test_judge.TestFreshness()
_protection = test_judge.TestProtection()
_life = test_owned_passes.TestLifeOfAnOrphan()
_limits_of_marks = test_owned_passes.TestLimitsOfMarks()
_live = test_owned_passes.TestLiveRuns()
_others = test_claim.TestOthers()


def fails(test: Callable[..., None], *arguments: object) -> Directed:
    """Return what tells whether a test fails now."""
    return lambda: noticed(test, *arguments)


DIRECTED: dict[str, tuple[Directed, ...]] = {
    f"no_{keep.__name__}": (fails(test_owner_rules.test_every_entry_of_the_chain_can_speak),)
    for keep in KEEP_CHAIN
} | {
    # Younger than every minimum age, so what it loses is the reason that people are told.
    "no_keep_future_date": (
        fails(test_rules.test_each_reason_alone_keeps_a_run, {"age_seconds": -301}, Reason.KEPT_FUTURE_DATE),
    ),
    "owners_looked_at_once": (
        fails(_fresh.test_a_fresh_view_is_not_asked_for_again),
        fails(_live.test_a_run_that_comes_to_life_right_before_its_deletion_stays),
    ),
    "owners_for_a_minute": (
        fails(_fresh.test_a_look_that_takes_too_long_is_no_ground_to_delete),
        fails(_live.test_a_run_that_comes_to_life_right_before_its_deletion_stays),
    ),
    "never_judged_again": (fails(_live.test_a_run_that_comes_to_life_right_before_its_deletion_stays),),
    "references_one_level_deep": (
        fails(_live.test_stored_documents_of_live_runs_protect_what_they_refer_to),
    ),
    "references_not_remembered": (
        fails(test_judge.TestReferences().test_new_references_are_followed_by_the_next_refresh),
    ),
    "stale_documents": (fails(test_references.TestCache().test_a_changed_document_is_read_again),),
    "owners_that_vanish_are_forgotten": (
        fails(_protection.test_an_owner_that_ends_or_vanishes_protects_until_the_end_of_the_pass),
    ),
    "no_permits": (
        fails(test_claim.TestHolding().test_a_pass_asks_it_before_each_deletion),
        fails(_limits_of_marks.test_marks_are_written_and_removed_only_while_every_permit_holds),
    ),
    "no_margin": (fails(test_claim.TestHolding().test_it_counts_until_a_margin_before_its_end),),
    "claims_are_over_at_once": (fails(_others.test_it_is_taken_over_after_its_end_and_a_tolerance),),
    "renewed_without_looking": (
        fails(_others.test_a_holder_that_is_overtaken_while_valid_stops),
        fails(_others.test_a_claim_that_somebody_removed_is_lost),
    ),
    "marks_a_day_off": (fails(_life.test_it_is_marked_first_and_goes_after_the_grace),),
    "marks_of_earlier_runs": (
        fails(_life.test_a_mark_that_outlived_its_run_does_not_shorten_the_grace_of_the_next),
    ),
    "marks_stay_when_owners_come": (
        fails(_life.test_an_owner_that_comes_back_takes_the_mark_away),
        fails(test_void_marks.test_an_owner_that_comes_right_before_the_deletion_voids_the_mark),
    ),
    "dry_runs_mark": (fails(_life.test_a_dry_run_reads_marks_and_writes_nothing),),
    "age_by_the_local_clock": (fails(test_runner.TestWhatGoes().test_ages_go_by_the_clock_of_the_store),),
    "age_of_the_oldest_member": (fails(test_scan.test_a_run_gathers_what_the_decision_needs),),
    "cursor_before_acting": (fails(test_pipeline.test_the_cursor_waits_for_what_comes_before),),
    "cursor_stands_still": (
        fails(test_runner.TestDryRun().test_a_cycle_counts_every_object_once),
        fails(test_runner.TestLimits().test_the_time_budget_ends_a_pass_between_requests),
    ),
    "old_listings": (fails(test_runner.TestFreshness().test_a_listing_that_has_become_old_is_made_again),),
    "ends_are_believed": (
        fails(test_runner.TestLies().test_a_list_that_ends_early_does_not_hide_young_members),
        fails(test_scan.test_a_listing_that_breaks_off_is_gone_on_with),
    ),
    "order_is_believed": (fails(test_runner.TestLies().test_a_listing_out_of_order_deletes_nothing),),
    "no_limit_of_deletions": (
        fails(test_runner.TestLimits().test_a_run_that_does_not_fit_any_more_is_left_to_the_next_pass),
    ),
    "no_bound_of_due_objects": (
        fails(test_tally.TestApproval().test_an_enforcing_pass_stops_before_the_bound_is_exceeded),
    ),
    "failed_batches_are_not_charged": (
        fails(test_delete.test_what_a_lost_batch_may_have_deleted_stays_charged),
    ),
    "digest_by_pages": (fails(test_tally.test_a_cycle_counts_everything_once_and_begins_anew),),
    "undated_is_old": (fails(test_scan.test_a_run_gathers_what_the_decision_needs),),
}
"""By sabotage."""
