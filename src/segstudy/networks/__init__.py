"""Plain networks: image (B,3,H,W) to logits (B,C,H,W), for any height and width."""
