"""Whether what stands in Redis is whole: a scan of everything that a queue has there, and repairs.

``scan.py`` reads it all, in bounded steps, while others work, and has suspicions. ``finding.py`` looks at each
again, at one moment; what was only on its way is none. A repair looks once more in the step that changes it.
"""

from reliq.core.fsck.finding import Finding as Finding
from reliq.core.fsck.scan import Scan as Scan
