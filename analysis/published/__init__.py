"""The analyses of "Donors and Recipients" (arXiv 2511.13368) as they were published, one module each.

They are comparable with the paper; what to believe beyond that is another question, and another layer of the report.
"""

from analysis.published.compute import Published, PublishedOptions, publish

__all__ = ["Published", "PublishedOptions", "publish"]
