/* SPDX-License-Identifier: GPL-2.0-only */
/* The constants of a node, as dataplane/specialise.py would write them, for headers that need some. */
#ifndef JETPLANE_NODE_H
#define JETPLANE_NODE_H

#define TUNNEL_ETHERNET  0
#define KEY_ROTATION     1
#define TUNNEL_MTU       1420
#define EXITS            4
/* 203.0.113.10, 203.0.113.11, 2001:db8::a, 2001:db8::1:a; inside 10.64.0.0/16, 10.65.0.0/24, fd00::/64 */
#define EXIT_V4(X)       X(0, 0x0a7100cbu) X(1, 0x0b7100cbu)
#define EXIT_V6(X)       X(2, 0xb80d0120u, 0u, 0u, 0x0a000000u) X(3, 0xb80d0120u, 0u, 0u, 0x0a000100u)
#define INNER_V4(X)      X(0x0000400au, 0x0000ffffu) X(0x0000410au, 0x00ffffffu)
#define INNER_V6(X)      X(0x000000fdu, 0u, 0u, 0u, 0xffffffffu, 0xffffffffu, 0u, 0u)
#define TUNNEL_V4(X)     X(0x0100400au)
#define TUNNEL_V6(X)     X(0x000000fdu, 0u, 0u, 0x01000000u)
/* 10.0.0.0/8, 192.0.2.0/24, 2001:db8:5::/48; but 10.1.0.0/16, 2001:db8:5:1::/64; the node 192.0.2.1, 2001:db8:5::1 */
#define DENIED_V4(X)     X(0x0000000au, 0x000000ffu) X(0x000200c0u, 0x00ffffffu)
#define ALLOWED_V4(X)    X(0x0000010au, 0x0000ffffu)
#define OWN_V4(X)        X(0x010200c0u)
#define DENIED_V6(X)     X(0xb80d0120u, 0x00000500u, 0u, 0u, 0xffffffffu, 0x0000ffffu, 0u, 0u)
#define ALLOWED_V6(X)    X(0xb80d0120u, 0x01000500u, 0u, 0u, 0xffffffffu, 0xffffffffu, 0u, 0u)
#define OWN_V6(X)        X(0xb80d0120u, 0x00000500u, 0u, 0x01000000u)
#define DENIED_PORTS(X)  X(PROTOCOL_TCP, 25, 25) X(PROTOCOL_UDP, 6881, 6999)
#define POLICY_ANSWERS   1
#define FLOWS_PER_SECOND 0

#define BLOCK_QUOTA     2
#define PORT_PARITY     0
#define TCP_REUSE       1
#define MAX_REUSES      64
#define HINTS           2 /* so that endpoints share them */
#define REUSE_QUOTA     8
#define MAX_PEERS       2
#define SOURCE_LINES    4
#define INBOUND_REFRESH 0
#define NAT_FILTERING   FILTER_ADDRESS

#define WIREGUARD_PORTS(X) X(51820) X(51821)

#define HANDSHAKE_MASK_V4   0xffffffffu
#define HANDSHAKE_MASK_V6_0 0xffffffffu
#define HANDSHAKE_MASK_V6_1 0xffffffffu
#define HANDSHAKE_MASK_V6_2 0u
#define HANDSHAKE_MASK_V6_3 0u

#define UDP_TIMEOUT_S             300
#define TCP_ESTABLISHED_TIMEOUT_S 7440
#define TCP_TRANSITORY_TIMEOUT_S  240
#define TCP_CLOSING_TIMEOUT_S     300
#define ICMP_TIMEOUT_S            60

#endif
