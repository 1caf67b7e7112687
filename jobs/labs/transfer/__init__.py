"""What the lab on transfer learning learns from, and with: data, networks, figure."""
