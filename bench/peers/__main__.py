"""``python -m bench.peers [--quick] [--only NAME …]``"""

from bench.peers.bench import main

main()
