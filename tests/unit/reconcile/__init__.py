"""Tests of the reconciler on stores and a ledger in memory."""
