/* SPDX-License-Identifier: Apache-2.0
 *
 * Feeds the device of docs/examples/link_device with streams that are nearly right. After each one
 * it must accept what is right: a link, a session and a request.
 *
 * usage: link_device_fuzz SEED COUNT
 */
#define main device_main
#include "device.c"
#undef main

enum { HOST_EPOCH = 9, LINES = 12, MOST_OUTPUT = 1000 };
enum how { AS_IT_IS, CONTENT, BODY, LINE };

static struct device d;
static uint8_t stream[1 << 16];
static size_t stream_size;
static uint32_t noise, clock_ms, mine, message_id;
static uint16_t sequence;
static enum how how;
static int is_mute; /* the host acknowledges nothing */

static uint32_t pick(uint32_t below)
{
    noise ^= noise << 13;
    noise ^= noise >> 17;
    noise ^= noise << 5;
    return noise % below;
}

static void fail(const char *what, uint32_t number)
{
    printf("after stream %u: %s\n", number, what);
    exit(1);
}

/* Change some bytes; returns the new size, which is `most` or less. */
static size_t mutate(uint8_t *data, size_t size, size_t most)
{
    static const uint8_t odd[] = {0, 1, 0x7F, 0x80, 0xFF};
    for (uint32_t count = 1 + pick(4); count && size; count--) {
        size_t at = pick((uint32_t)size), length = 1 + pick(20);
        if (length > size - at)
            length = size - at;
        switch (pick(6)) {
        case 0:
            data[at] ^= (uint8_t)(1 << pick(8));
            break;
        case 1:
            data[at] = odd[pick(sizeof odd)];
            break;
        case 2:
            memmove(data + at, data + at + length, size - at - length);
            size -= length;
            break;
        case 3:
            for (size_t i = 0; i < length; i++)
                data[at + i] = (uint8_t)pick(256);
            break;
        case 4:
            if (size + length <= most) {
                memmove(data + at + length, data + at, size - at);
                size += length;
            }
            break;
        default:
            if (!pick(4))
                size = at;
        }
    }
    return size;
}

static void add_body(uint8_t *body, size_t size)
{
    if (how == BODY && !pick(3))
        size = mutate(body, size, 600);
    put32(body + size, link_crc32(body, size));
    uint8_t *at = stream + stream_size;
    at[0] = 0;
    size_t length = 1 + cobs_encode(body, size + 4, at + 1);
    at[length++] = 0;
    if (how == LINE && !pick(3))
        length = mutate(at, length, 1000);
    stream_size += length;
    if (how == LINE && !pick(20))
        for (uint32_t count = pick(1000); count; count--)
            stream[stream_size++] = (uint8_t)(1 + pick(255));
}

static void add_hello(void)
{
    uint8_t body[700] = {0x48, 1, 4};
    put32(put32(body + 4, mine), d.link.theirs == mine ? d.link.session : 0);
    put32(put16(put16(body + 12, LINK_PAYLOAD), 0), LINK_FRAME);
    add_body(body, 20);
}

static uint8_t *link_head(uint8_t *body, uint8_t kind, uint8_t flags)
{
    body[0] = kind;
    body[1] = flags;
    put32(put16(body + 2, sequence), 2 * mine + d.link.session);
    put16(body + 8, is_mute ? d.link.oldest : d.link.next);
    body[10] = 4;
    body[11] = 0;
    return body + 12;
}

static void add_ack(void)
{
    uint8_t body[700];
    put32(link_head(body, 0x41, (uint8_t)(2 * pick(2))), how == AS_IT_IS ? 0 : pick(8));
    add_body(body, 16);
}

/* Pieces of a carrier frame that does not end. */
static void add_endless(void)
{
    for (uint32_t count = pick(24); count; count--) {
        uint8_t body[700];
        memset(link_head(body, 0x44, 1), 7, LINK_PAYLOAD);
        add_body(body, 12 + LINK_PAYLOAD);
        sequence++;
    }
}

static void add_frame(const uint8_t *frame, size_t size)
{
    static uint8_t content[LINK_FRAME + 600];
    memcpy(content, frame, size);
    if (how == CONTENT && !pick(2))
        size = mutate(content, size, sizeof content);
    size_t at = 0;
    do {
        uint8_t body[700];
        size_t left = size - at, part = left < LINK_PAYLOAD ? left : LINK_PAYLOAD;
        memcpy(link_head(body, 0x44, part < left), content + at, part);
        add_body(body, 12 + part);
        sequence++;
        at += part;
    } while (at < size);
}

static void add_engine_hello(void)
{
    uint8_t frame[32] = {1, 0, HOST_EPOCH, 0, 1, 0, 3, 0};
    put32(put32(put32(frame + 16, 1u << 30), 1u << 30), EAGER_LIMIT);
    add_frame(frame, sizeof frame);
}

static void add_message(uint16_t session, const uint8_t *records, size_t size)
{
    uint8_t frame[E_HEAD + PACKET] = {2, 0, HOST_EPOCH, 0};
    put32(put32(frame + 4, ++message_id), (uint32_t)size + 4);
    put32(put32(put32(frame + 32, d.sent), 1u << 30), 1u << 30);
    put16(frame + E_HEAD, session);
    frame[E_HEAD + 3] = 4;
    memcpy(frame + E_HEAD + 4, records, size);
    add_frame(frame, E_HEAD + 4 + size);
}

static void add_wire_hello(void)
{
    uint8_t hello[16] = {W_HELLO, 0x49, 0x4F, 0x32, 0x57, 1, 8};
    put32(put32(hello + 7, PACKET), 77);
    add_message(0, hello, sizeof hello);
}

static uint8_t *post(uint8_t *at, uint8_t function, uint16_t frame)
{
    uint8_t words = 10;
    at[0] = W_POST;
    at[1] = d.generation;
    put16(put16(at + 2, frame), words);
    at += 6;
    memset(at, 0, 40);
    at[0] = 0x81; /* the SGL is at word 8 */
    at[2] = words;
    at[7] = function;
    if (function == STATUS_GET) {
        put32(at + 24, 0x10000);
        put32(at + 32, STATUS_SIZE);
    } else {
        put32(put32(at + 20, 512), pick(DISK_SIZE));
        put32(put32(at + 32, 0xD0000000 | 512), 0x10000);
    }
    return at + 40;
}

/* Release a reply frame, and ask for something. */
static void add_request(uint8_t function)
{
    uint8_t records[100] = {W_RELEASE_RUN, d.reply_generation};
    put16(put16(put32(records + 2, 0x20000), 128), 3);
    uint8_t *at = post(records + 10, function, (uint16_t)pick(how == AS_IT_IS ? 1 : FRAMES));
    add_message(d.session, records, (size_t)(at - records));
}

/* A read, and that its data were stored: the device has more to say. */
static void add_stored_read(void)
{
    uint8_t done[3] = {W_DONE, d.generation, 0};
    add_request(BLOCK_READ);
    add_message(d.session, done, sizeof done);
}

static void add_anything(void)
{
    uint8_t records[64] = {W_DONE, d.generation, (uint8_t)pick(2)};
    switch (pick(20)) {
    case 0: add_hello(); break;
    case 1: add_ack(); break;
    case 2: add_engine_hello(); break;
    case 3: add_wire_hello(); break;
    case 4: add_endless(); break;
    case 5:
        records[0] = pick(4) ? W_RESET : W_BYE;
        add_message(d.session, records, 1);
        break;
    case 6: case 7:
        records[0] = W_RANGE;
        records[1] = 4;
        put32(records + 6, 20);
        records[30] = W_PING;
        add_message(d.session, records, 31);
        break;
    case 8: case 9: case 10: add_request(STATUS_GET); break;
    case 11: case 12: case 13: add_request(BLOCK_READ); break;
    default: add_message(d.session, records, 3); /* what was stored is there */
    }
}

/* Let the device have the stream in pieces, and take what it says. */
static void feed(uint32_t number)
{
    uint8_t out[LINK_STUFFED + 2];
    for (size_t at = 0; at < stream_size;) {
        size_t size = 1 + pick(400);
        if (size > stream_size - at)
            size = stream_size - at;
        link_receive(&d.link, stream + at, size, clock_ms);
        at += size;
        work(&d);
        flush(&d);
        for (int count = 0; link_output(&d.link, out, clock_ms) > 0; count++)
            if (count == MOST_OUTPUT)
                fail("it does not stop to talk", number);
        if (d.link.stuffed_size > LINK_STUFFED || d.link.frame_size > LINK_FRAME ||
            d.link.queue_size > LINK_QUEUE || d.out_size > PACKET || d.record_size > sizeof d.record)
            fail("it keeps too much", number);
    }
    stream_size = 0;
    clock_ms++;
}

/* A link, a session and a request, all as they should be. */
static void check(uint32_t number)
{
    how = AS_IT_IS;
    is_mute = 0;
    sequence = 0;
    do
        mine = 0x10000 + pick(1u << 30);
    while (mine == d.link.session || mine == d.link.theirs);
    stream[stream_size++] = 0;
    add_hello();
    feed(number);
    if (!d.link.is_answering || d.link.theirs != mine)
        fail("a HELLO is not answered", number);
    add_ack();
    feed(number);
    if (!d.link.is_up)
        fail("there is no link", number);
    add_engine_hello();
    add_wire_hello();
    feed(number);
    if (!d.is_greeted || !d.session)
        fail("there is no session", number);
    add_request(STATUS_GET);
    feed(number);
    if (!d.is_waiting || !d.jobs[0].is_used)
        fail("a request is not worked on", number);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    noise = (uint32_t)atoi(argv[1]) * 2654435761u | 1;
    uint32_t count = (uint32_t)atoi(argv[2]), ended = 0, lost = 0;
    d.link.up = on_up;
    d.link.frame = on_frame;
    d.link.lost = on_lost;
    d.link.new_session = random32;
    d.link.owner = &d;
    link_init(&d.link);
    check(0);
    for (uint32_t number = 1; number <= count; number++) {
        how = (enum how)(1 + pick(3));
        is_mute = !pick(4);
        for (uint32_t lines = 1 + pick(LINES); lines; lines--)
            if (is_mute && pick(2))
                add_stored_read();
            else
                add_anything();
        feed(number);
        ended += !d.session;
        lost += !d.link.is_up;
        check(number);
    }
    printf("%u streams, %u ended the session, %u the link\n", count, ended, lost);
    return 0;
}
