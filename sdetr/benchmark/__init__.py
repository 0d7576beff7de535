"""Speed against peers: same machine, same inputs, same run. A ratio holds elsewhere, a time does not."""
