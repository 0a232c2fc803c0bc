/* SPDX-License-Identifier: Apache-2.0 */
#include "link.h"

#include <string.h>

enum { ACK = 0x41, BYE = 0x42, DATA = 0x44, HELLO = 0x48 };
enum { MORE = 1, POLL = 2 };
enum { BYE_UNKNOWN_LINK = 1, BYE_VERSION = 2, BYE_FRAME_SIZE = 3, BYE_PROTOCOL = 4 };
enum { HELLO_MS = 250, ANSWERING_MS = 5000, LEAST_RTO_MS = 50, MOST_RTO_MS = 2000 };
enum { UNKNOWN_TRIP_MS = 200, MOST_BACKOFF = 6 };

uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t get32(const uint8_t *at)
{
    return get16(at) | (uint32_t)get16(at + 2) << 16;
}

uint8_t *put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
    return at + 2;
}

uint8_t *put32(uint8_t *at, uint32_t value)
{
    return put16(put16(at, value), value >> 16);
}

uint32_t link_crc32(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xFFFFFFFF;
    while (size--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

size_t cobs_encode(const uint8_t *data, size_t size, uint8_t *out)
{
    size_t code = 0, at = 1;
    for (size_t i = 0; i < size; i++) {
        if (data[i])
            out[at++] = data[i];
        if (!data[i] || (at - code == 255 && i + 1 < size)) {
            out[code] = (uint8_t)(at - code);
            code = at++;
        }
    }
    out[code] = (uint8_t)(at - code);
    return at;
}

long cobs_decode(const uint8_t *data, size_t size, uint8_t *out)
{
    size_t at = 0;
    long length = 0;
    if (!size)
        return -1;
    while (at < size) {
        size_t code = data[at++];
        if (!code || at + code - 1 > size)
            return -1;
        for (size_t i = 1; i < code; i++) {
            if (!data[at])
                return -1;
            out[length++] = data[at++];
        }
        if (code != 255 && at < size)
            out[length++] = 0;
    }
    return length;
}

static void reset(struct link *link)
{
    link->session = link->new_session(link->owner);
    link->theirs = 0;
    link->is_answering = link->is_up = link->is_hello_due = link->is_ack_due = 0;
    link->expected = link->next = link->oldest = 0;
    link->frame_size = link->queue_size = link->queue_offset = 0;
    memset(link->early, 0, sizeof link->early);
    memset(link->flying, 0, sizeof link->flying);
    memset(link->resend, 0, sizeof link->resend);
    link->has_trip = link->backoff = link->hellos = 0;
}

/* Learn from a round trip as RFC 6298 has it, in eighths and quarters of milliseconds. */
static void learn(struct link *link, uint32_t trip_ms)
{
    if (!link->has_trip) {
        link->has_trip = 1;
        link->trip_8th_ms = 8 * trip_ms;
        link->spread_4th_ms = 2 * trip_ms;
        return;
    }
    uint32_t mean = link->trip_8th_ms / 8;
    uint32_t off = trip_ms > mean ? trip_ms - mean : mean - trip_ms;
    link->spread_4th_ms += off - link->spread_4th_ms / 4;
    link->trip_8th_ms += trip_ms - mean;
}

/* How long to wait for an acknowledgement with so many DATA on their way. */
static uint32_t patience_ms(const struct link *link, uint16_t sent)
{
    uint32_t wait = (sent + 2u) * LINK_STUFFED * 10000 / LINK_BAUD;
    wait += link->has_trip ? link->trip_8th_ms / 8 + link->spread_4th_ms : UNKNOWN_TRIP_MS;
    if (wait < LEAST_RTO_MS)
        wait = LEAST_RTO_MS;
    uint32_t most = wait > MOST_RTO_MS ? wait : MOST_RTO_MS;
    wait <<= link->backoff;
    return wait < most ? wait : most;
}

void link_init(struct link *link)
{
    link->stuffed_size = 0;
    link->is_skipping = 0;
    link->bye_code = 0;
    reset(link);
}

static void lose(struct link *link)
{
    int was_up = link->is_up;
    reset(link);
    if (was_up)
        link->lost(link->owner);
}

static void rise(struct link *link, uint32_t now_ms)
{
    if (link->hellos == 1) /* or nobody knows which one was answered */
        learn(link, now_ms - link->hello_ms);
    link->is_up = 1;
    link->is_answering = link->is_hello_due = 0;
    link->is_ack_due = 1;
    link->up(link->owner);
}

static void say_bye(struct link *link, uint32_t number, uint8_t code)
{
    link->bye_link = number;
    link->bye_code = code;
}

static void take_hello(struct link *link, const uint8_t *body, size_t size, uint32_t now_ms)
{
    if (size < 20)
        return;
    uint32_t session = get32(body + 4), echo = get32(body + 8);
    uint16_t payload = get16(body + 12);
    if (session == link->session)
        return; /* the line echoes */
    if (body[1] != 1) {
        say_bye(link, session, BYE_VERSION);
        return;
    }
    if (payload < 64 || !body[2]) {
        say_bye(link, session, BYE_PROTOCOL);
        return;
    }
    if (get32(body + 16) < LINK_QUEUE) {
        say_bye(link, session, BYE_FRAME_SIZE);
        return;
    }
    if (link->is_up && session == link->theirs) {
        link->is_ack_due = 1;
        return;
    }
    if (link->is_up)
        lose(link); /* the other end began anew */
    link->theirs = session;
    link->link_in = 2 * session + link->session;
    link->link_out = 2 * link->session + session;
    link->window = body[2] < LINK_WINDOW ? body[2] : LINK_WINDOW;
    link->payload = payload < LINK_PAYLOAD ? payload : LINK_PAYLOAD;
    if (!link->is_answering)
        link->answering_ms = now_ms;
    link->is_answering = 1;
    if (echo == link->session)
        rise(link, now_ms);
    else
        link->is_hello_due = 1;
}

static void take_ack(struct link *link, uint16_t ack, uint8_t window, uint32_t held, uint32_t now_ms)
{
    uint16_t arrived = (uint16_t)(ack - link->oldest);
    uint16_t sent = (uint16_t)(link->next - link->oldest);
    if (arrived >= 0x8000)
        return; /* said before something that is known */
    if (arrived > sent) {
        say_bye(link, link->link_out, BYE_PROTOCOL);
        lose(link);
        return;
    }
    link->window = window < LINK_WINDOW ? window : LINK_WINDOW;
    for (; arrived; arrived--) {
        struct piece *one = &link->flying[link->oldest % LINK_WINDOW];
        if (!one->was_resent && !one->has_landed)
            learn(link, now_ms - one->sent_ms);
        one->is_used = 0;
        link->resend[link->oldest % LINK_WINDOW] = 0;
        link->oldest++;
        link->timer_ms = link->waiting_ms = now_ms;
        link->backoff = 0;
    }
    /* a line keeps the order: what was sent before something that arrived is lost */
    for (int bit = LINK_WINDOW - 2; bit >= 0; bit--) {
        if (!(held >> bit & 1) || bit + 1 >= (uint16_t)(link->next - link->oldest))
            continue;
        struct piece *one = &link->flying[(uint16_t)(ack + 1 + bit) % LINK_WINDOW];
        if (one->has_landed)
            continue;
        one->has_landed = 1;
        for (int before = 0; before <= bit; before++) {
            int slot = (uint16_t)(ack + before) % LINK_WINDOW;
            if (!link->flying[slot].has_landed)
                link->resend[slot] = 1;
        }
    }
}

static int complete(struct link *link, const struct piece *piece)
{
    if (link->frame_size + piece->size > LINK_FRAME)
        return 0;
    memcpy(link->frame_data + link->frame_size, piece->data, piece->size);
    link->frame_size += piece->size;
    if (!(piece->flags & MORE)) {
        size_t size = link->frame_size;
        link->frame_size = 0;
        link->frame(link->owner, link->frame_data, size);
    }
    return 1;
}

static void take_data(struct link *link, const uint8_t *body, size_t size)
{
    uint16_t number = get16(body + 2), ahead = (uint16_t)(number - link->expected);
    size -= 12;
    link->is_ack_due = 1;
    if (ahead >= LINK_WINDOW)
        return; /* it came before */
    struct piece *piece = &link->early[number % LINK_WINDOW];
    if (!piece->is_used) {
        if (size > LINK_PAYLOAD) {
            say_bye(link, link->link_out, BYE_PROTOCOL);
            lose(link);
            return;
        }
        memcpy(piece->data, body + 12, size);
        piece->size = (uint16_t)size;
        piece->flags = body[1];
        piece->is_used = 1;
    }
    while (link->early[link->expected % LINK_WINDOW].is_used) {
        piece = &link->early[link->expected % LINK_WINDOW];
        piece->is_used = 0;
        link->expected++;
        if (!complete(link, piece)) {
            say_bye(link, link->link_out, BYE_PROTOCOL);
            lose(link);
            return;
        }
    }
}

static void take(struct link *link, const uint8_t *body, size_t size, uint32_t now_ms)
{
    uint8_t kind = body[0];
    if (kind == HELLO) {
        take_hello(link, body, size, now_ms);
        return;
    }
    if (kind == BYE) {
        if (size >= 8 && (link->is_up || link->is_answering)) {
            uint32_t number = link->session; /* of an answer to a HELLO */
            if (link->is_up)
                number = body[1] == BYE_UNKNOWN_LINK ? link->link_out : link->link_in;
            if (get32(body + 4) == number)
                lose(link);
        }
        return;
    }
    if ((kind != DATA || size < 12) && (kind != ACK || size < 16))
        return;
    if (link->is_answering && get32(body + 4) == link->link_in)
        rise(link, now_ms);
    if (!link->is_up || get32(body + 4) != link->link_in) {
        if (!link->is_answering && !link->is_up && (kind == DATA || body[1] & POLL))
            say_bye(link, get32(body + 4), BYE_UNKNOWN_LINK);
        return;
    }
    if (kind == DATA)
        take_data(link, body, size);
    else if (body[1] & POLL)
        link->is_ack_due = 1;
    if (link->is_up)
        take_ack(link, get16(body + 8), body[10], kind == ACK ? get32(body + 12) : 0, now_ms);
}

void link_receive(struct link *link, const uint8_t *data, size_t size, uint32_t now_ms)
{
    for (; size; size--, data++) {
        if (*data) {
            if (link->stuffed_size == LINK_STUFFED)
                link->is_skipping = 1;
            else if (!link->is_skipping)
                link->stuffed[link->stuffed_size++] = *data;
            continue;
        }
        long length = cobs_decode(link->stuffed, link->stuffed_size, link->stuffed);
        int is_whole = !link->is_skipping && length > 4;
        link->stuffed_size = 0;
        link->is_skipping = 0;
        if (is_whole && link_crc32(link->stuffed, (size_t)length - 4) == get32(link->stuffed + length - 4))
            take(link, link->stuffed, (size_t)length - 4, now_ms);
    }
}

int link_send(struct link *link, const uint8_t *data, size_t size)
{
    if (!link->is_up || size + 2 > LINK_QUEUE - link->queue_size)
        return 0;
    put16(link->queue + link->queue_size, (uint32_t)size);
    memcpy(link->queue + link->queue_size + 2, data, size);
    link->queue_size += size + 2;
    return 1;
}

/* Cut the next piece off the first frame that waits. */
static void cut(struct link *link, struct piece *piece)
{
    size_t whole = get16(link->queue), left = whole - link->queue_offset;
    size_t size = left < link->payload ? left : link->payload;
    memcpy(piece->data, link->queue + 2 + link->queue_offset, size);
    piece->size = (uint16_t)size;
    piece->flags = size < left ? MORE : 0;
    piece->is_used = 1;
    piece->has_landed = piece->was_resent = 0;
    link->queue_offset += size;
    if (size == left) {
        link->queue_size -= whole + 2;
        memmove(link->queue, link->queue + whole + 2, link->queue_size);
        link->queue_offset = 0;
    }
}

static size_t seal(uint8_t *body, size_t size, uint8_t *out)
{
    put32(body + size, link_crc32(body, size));
    out[0] = 0;
    size = 1 + cobs_encode(body, size + 4, out + 1);
    out[size++] = 0;
    return size;
}

static size_t head(struct link *link, uint8_t *body, uint8_t kind, uint8_t flags, uint16_t number)
{
    body[0] = kind;
    body[1] = flags;
    put16(body + 2, number);
    put32(body + 4, link->link_out);
    put16(body + 8, link->expected);
    body[10] = LINK_WINDOW;
    body[11] = 0;
    return 12;
}

static size_t say_hello(struct link *link, uint8_t *body, uint8_t *out, uint32_t now_ms)
{
    link->is_hello_due = 0;
    link->hello_ms = now_ms;
    link->hellos = link->hellos ? 2 : 1;
    memset(body, 0, 20);
    body[0] = HELLO;
    body[1] = 1;
    body[2] = LINK_WINDOW;
    put32(body + 4, link->session);
    put32(body + 8, link->theirs);
    put16(body + 12, LINK_PAYLOAD);
    put32(body + 16, LINK_FRAME);
    return seal(body, 20, out);
}

size_t link_output(struct link *link, uint8_t *out, uint32_t now_ms)
{
    uint8_t body[LINK_PACKET];
    if (link->bye_code) {
        memset(body, 0, 8);
        body[0] = BYE;
        body[1] = link->bye_code;
        put32(body + 4, link->bye_link);
        link->bye_code = 0;
        return seal(body, 8, out);
    }
    if (link->is_answering && now_ms - link->answering_ms >= ANSWERING_MS)
        reset(link); /* whoever asked is gone */
    if (link->is_answering) {
        if (link->is_hello_due || now_ms - link->hello_ms >= HELLO_MS)
            return say_hello(link, body, out, now_ms);
        return 0;
    }
    if (!link->is_up)
        return 0;
    uint16_t sent = (uint16_t)(link->next - link->oldest);
    if (sent && now_ms - link->waiting_ms >= LINK_GIVE_UP_MS) {
        lose(link); /* nobody is there any more */
        return 0;
    }
    if (sent && now_ms - link->timer_ms >= patience_ms(link, sent)) {
        link->timer_ms = now_ms;
        link->backoff += link->backoff < MOST_BACKOFF;
        link->resend[link->oldest % LINK_WINDOW] = 1;
    }
    uint32_t held = 0;
    for (int bit = 0; bit < LINK_WINDOW - 1; bit++)
        if (link->early[(uint16_t)(link->expected + 1 + bit) % LINK_WINDOW].is_used)
            held |= 1u << bit;
    if (!(link->is_ack_due && held)) {
        uint16_t number = link->next;
        struct piece *piece = NULL;
        for (uint16_t i = 0; i < sent && !piece; i++) {
            uint16_t lost = (uint16_t)(link->oldest + i);
            if (link->resend[lost % LINK_WINDOW]) {
                link->resend[lost % LINK_WINDOW] = 0;
                piece = &link->flying[lost % LINK_WINDOW];
                piece->was_resent = 1;
                number = lost;
            }
        }
        if (!piece && link->queue_size && sent < link->window) {
            piece = &link->flying[number % LINK_WINDOW];
            cut(link, piece);
            piece->sent_ms = now_ms;
            link->next++;
            if (!sent)
                link->timer_ms = link->waiting_ms = now_ms;
        }
        if (piece) {
            size_t size = head(link, body, DATA, piece->flags, number);
            memcpy(body + size, piece->data, piece->size);
            link->is_ack_due = held != 0;
            return seal(body, size + piece->size, out);
        }
    }
    if (link->is_ack_due) {
        link->is_ack_due = 0;
        size_t size = head(link, body, ACK, 0, link->next);
        put32(body + size, held);
        return seal(body, size + 4, out);
    }
    return 0;
}
