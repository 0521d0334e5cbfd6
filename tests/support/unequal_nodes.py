"""A Ray cluster with a token whose nodes are not alike: ``python -m tests.support.unequal_nodes ENV...`` starts a head
and one more node per argument, whose environment variables the argument gives as JSON; it prints the address, and
stops all when its stdin ends.
"""

import json
import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """See above."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for more in sys.argv[1:]:
        made.add_node(wait=False, num_cpus=1, env_vars=json.loads(more))
    made.wait_for_nodes(timeout=180)
    sys.stdout.write(f"{made.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    made.shutdown()


if __name__ == "__main__":
    main()
