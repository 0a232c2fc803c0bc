/* SPDX-License-Identifier: Apache-2.0
 *
 * The link over a serial line, for firmware: docs/link-protocol.md says what it is. No allocation,
 * no I/O: bytes and the time go in, bytes and carrier frames come out.
 */
#ifndef LINK_H
#define LINK_H

#include <stddef.h>
#include <stdint.h>

#define LINK_PAYLOAD 256 /* bytes of a carrier frame in one DATA, both ways */
#define LINK_WINDOW 4    /* DATA frames on their way, both ways */
#define LINK_FRAME 4096  /* bytes of the largest carrier frame that is taken */
#define LINK_QUEUE 2048  /* bytes of carrier frames that wait to be sent */
#define LINK_PACKET (12 + LINK_PAYLOAD + 4)
#define LINK_STUFFED (LINK_PACKET + 1 + LINK_PACKET / 254)

#ifndef LINK_BAUD
#define LINK_BAUD 115200 /* bits a second, for which the timer waits */
#endif
#ifndef LINK_GIVE_UP_MS
#define LINK_GIVE_UP_MS 30000 /* how long DATA may stay unacknowledged */
#endif

struct piece {
    uint8_t data[LINK_PAYLOAD];
    uint16_t size;
    uint8_t flags;
    uint8_t is_used;
    uint8_t has_landed;
    uint8_t was_resent; /* then nobody knows which one was acknowledged */
    uint32_t sent_ms;
};

struct link {
    /* set by the owner */
    void (*up)(void *owner);
    void (*frame)(void *owner, const uint8_t *data, size_t size);
    void (*lost)(void *owner);
    uint32_t (*new_session)(void *owner);
    void *owner;

    uint32_t session, theirs, link_in, link_out;
    uint8_t is_answering, is_up, is_hello_due, is_ack_due;
    uint8_t bye_code; /* 0: none is due */
    uint32_t bye_link;
    uint32_t hello_ms, answering_ms; /* since when it waits for more than a HELLO */

    uint8_t stuffed[LINK_STUFFED];
    size_t stuffed_size;
    uint8_t is_skipping;

    uint16_t expected;
    struct piece early[LINK_WINDOW]; /* by number modulo LINK_WINDOW */
    uint8_t frame_data[LINK_FRAME];
    size_t frame_size;

    uint16_t next, oldest;
    struct piece flying[LINK_WINDOW];
    uint16_t window, payload;
    uint32_t timer_ms;   /* since when the oldest DATA is waited for */
    uint32_t waiting_ms; /* since when nothing new was acknowledged */
    uint32_t trip_8th_ms, spread_4th_ms; /* round trip and its variation */
    uint8_t has_trip, backoff, hellos;
    uint8_t resend[LINK_WINDOW];

    uint8_t queue[LINK_QUEUE]; /* carrier frames, each behind two bytes of size */
    size_t queue_size, queue_offset;
};

void link_init(struct link *link);

/* Take bytes from the line. */
void link_receive(struct link *link, const uint8_t *data, size_t size, uint32_t now_ms);

/* Queue a carrier frame; 0 if there is no room. */
int link_send(struct link *link, const uint8_t *data, size_t size);

/* Write the next bytes for the line to `out`, which has room for LINK_STUFFED + 2; 0 if none. */
size_t link_output(struct link *link, uint8_t *out, uint32_t now_ms);

/* Byte stuffing; `cobs_decode` returns -1 for what is none, `out` may be `data`. */
size_t cobs_encode(const uint8_t *data, size_t size, uint8_t *out);
long cobs_decode(const uint8_t *data, size_t size, uint8_t *out);
uint32_t link_crc32(const uint8_t *data, size_t size);

uint16_t get16(const uint8_t *at);
uint32_t get32(const uint8_t *at);
uint8_t *put16(uint8_t *at, uint32_t value);
uint8_t *put32(uint8_t *at, uint32_t value);

#endif
