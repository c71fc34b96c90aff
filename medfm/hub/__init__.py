"""Bundles and where they live: cards, the catalogue, folder stores, archives, and the Hugging Face hub on
request.

Reading the catalogue, cards and manifests loads no torch; the network is touched only by ``hf://``
references.
"""
