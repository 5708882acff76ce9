"""Plain networks: image (B,3,H,W) → logits (B,C,H,W), for any height and width."""
