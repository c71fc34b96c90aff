"""Simulated patients: generators that know what they made, and writers of real files (research use only)."""
