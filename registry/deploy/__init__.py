"""From the registry to where an adapter is used: which version is meant, its folder, its card, merged, on the hub.

>>> chosen = choose(client, VersionQuery(name="demo-wide--kind--tr", version="champion"))
>>> pull(client, chosen, Path("adapters/kind-tr"))
"""
