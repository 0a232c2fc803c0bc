/* SPDX-License-Identifier: Apache-2.0
 *
 * The device end of a serial line, small enough for firmware: an IOP that answers StatusGet,
 * OutboundInit and BlockRead, of a disk whose byte at address n is (n * 7 + n / 256) modulo 256.
 * docs/link-protocol.md describes every byte of it.
 *
 * usage: link_device DEVICE     serve there until killed
 *        link_device --vectors  read lines "PLAIN STUFFED" in hexadecimal, - for nothing, and check
 */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* --- engine frames: what is inside carrier frames ---------------------------------------------- */

enum { E_HELLO = 1, E_MESSAGE = 2, E_ACK = 4, E_DONE = 6 };
enum { E_TELL_MATCH = 8, E_ANNOUNCED = 16, E_ANSWER = 1, E_RDM = 3 };
enum { E_HEAD = 48, WINDOW_MESSAGES = 16, WINDOW_BYTES = 16384, EAGER_LIMIT = LINK_FRAME - E_HEAD };

/* --- wire records: what is inside messages ----------------------------------------------------- */

enum {
    W_BYE = 0x01, W_PING = 0x02, W_PONG = 0x03, W_HELLO = 0x10, W_RANGE = 0x11, W_POST = 0x12,
    W_POST_STATIC = 0x13, W_RELEASE = 0x14, W_RELEASE_RUN = 0x15, W_RESET = 0x16, W_DATA = 0x17,
    W_DONE = 0x18, W_WELCOME = 0x20, W_UNKNOWN = 0x22, W_FREE = 0x30, W_REPLY = 0x34,
    W_DROP = 0x35, W_REFILL = 0x36, W_STORE = 0x3A
};
enum { PACKET = 1024, W_WINDOW = 8, FRAMES = 4, FRAME_SIZE = 128, REPLIES = 64, CHUNK = 512 };

/* --- I2O --------------------------------------------------------------------------------------- */

enum { UTIL_NOP = 0x00, BLOCK_READ = 0x30, STATUS_GET = 0xA0, OUTBOUND_INIT = 0xA1 };
enum { STATUS_SIZE = 88, OPERATIONAL = 8, SYNC_DONE = 0xFF, INIT_COMPLETE = 4 };
enum { SUCCESS = 0, NO_DATA_TRANSFER = 5, UNSUPPORTED = 8 };
#define DISK_SIZE (1u << 20)

struct job { /* a request that is being worked on */
    uint8_t request[FRAME_SIZE];
    uint16_t frame;
    uint8_t is_used;
};

struct device {
    struct link link;
    uint8_t is_greeted;
    uint16_t epoch, peer_epoch;
    uint32_t came, came_bytes, sent, message_limit, sent_bytes, byte_limit;
    uint8_t is_engine_ack_due;

    uint16_t session; /* 0: no host */
    uint32_t host_packet;
    uint8_t credits, owed, number;
    uint8_t out[PACKET];
    size_t out_size;

    uint8_t record[8 + FRAME_SIZE];
    size_t record_size;
    uint32_t skip; /* bytes of RANGE data that nobody needs */

    uint8_t generation, reply_generation;
    uint32_t replies[REPLIES];
    uint16_t reply_count;
    struct job jobs[FRAMES]; /* in the order of their coming, the first one is worked on */
    uint32_t done;           /* bytes of the first job that were stored */
    uint8_t is_waiting;      /* for a DONE */
    uint8_t is_ended;        /* the first job needs its reply */
    uint8_t status;
};

static uint32_t random32(void *owner)
{
    uint32_t value = 0;
    FILE *file = fopen("/dev/urandom", "rb");
    (void)owner;
    if (!file || fread(&value, sizeof value, 1, file) != 1)
        value = (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16;
    if (file)
        fclose(file);
    return value;
}

static uint8_t disk_byte(uint32_t address)
{
    return (uint8_t)(address * 7 + address / 256);
}

static uint8_t *engine_head(struct device *d, uint8_t *at, uint8_t kind)
{
    at[0] = kind;
    at[1] = 0;
    return put16(at + 2, d->epoch);
}

static uint8_t *engine_limits(struct device *d, uint8_t *at)
{
    /* nothing waits here: what came is done */
    return put32(put32(put32(at, d->came), d->came + WINDOW_MESSAGES), d->came_bytes + WINDOW_BYTES);
}

/* --- sending ----------------------------------------------------------------------------------- */

/* Send a packet as one MESSAGE; 0 if it cannot be now. */
static int send_packet(struct device *d, uint16_t session, uint8_t number, uint8_t credits,
                       const uint8_t *content, size_t size)
{
    uint8_t frame[E_HEAD + PACKET];
    uint32_t length = (uint32_t)size + 4;
    if (d->sent == d->message_limit || length > d->byte_limit - d->sent_bytes)
        return 0;
    uint8_t *at = engine_head(d, frame, E_MESSAGE);
    memset(at, 0, E_HEAD - 4);
    at = put32(put32(put32(at, d->sent + 1), length), 0);
    engine_limits(d, frame + 32);
    put16(frame + E_HEAD, session);
    frame[E_HEAD + 2] = number;
    frame[E_HEAD + 3] = credits;
    memcpy(frame + E_HEAD + 4, content, size);
    if (!link_send(&d->link, frame, E_HEAD + length))
        return 0;
    d->sent++;
    d->sent_bytes += length;
    d->is_engine_ack_due = 0;
    return 1;
}

/* Room for a record in the packet that is being filled; NULL if there is none. */
static uint8_t *record(struct device *d, size_t size)
{
    uint32_t most = d->host_packet < PACKET ? d->host_packet : PACKET;
    if (!d->session || d->out_size + size > most - 4)
        return NULL;
    d->out_size += size;
    return d->out + d->out_size - size;
}

static void flush(struct device *d)
{
    int has_content = d->out_size != 0;
    if (d->session && ((has_content && d->credits) || d->owed >= W_WINDOW / 2)) {
        size_t size = has_content && d->credits ? d->out_size : 0;
        if (send_packet(d, d->session, d->number, d->owed, d->out, size)) {
            d->number++;
            d->owed = 0;
            if (size) {
                d->credits--;
                d->out_size = 0;
            }
        }
    }
    if (d->is_engine_ack_due && d->is_greeted) {
        uint8_t frame[16];
        engine_limits(d, engine_head(d, frame, E_ACK));
        if (link_send(&d->link, frame, sizeof frame))
            d->is_engine_ack_due = 0;
    }
}

/* --- the IOP ----------------------------------------------------------------------------------- */

static void status_block(uint8_t *block)
{
    memset(block, 0, STATUS_SIZE);
    put32(block + 8, (uint32_t)OPERATIONAL << 16 | 1 << 12); /* state, I2O 1.5 */
    put16(block + 12, FRAME_SIZE / 4);
    put32(block + 16, FRAMES);
    put32(block + 20, FRAMES);
    put32(block + 24, REPLIES);
    memcpy(block + 28, "link_device", 11);
    block[87] = SYNC_DONE;
}

/* Where the data of a request go: address and bytes of its one buffer. */
static int target(const struct job *job, uint32_t *address, uint32_t *length)
{
    const uint8_t *request = job->request;
    if (request[7] == STATUS_GET) {
        *address = get32(request + 24);
        *length = STATUS_SIZE;
        return get32(request + 28) == 0 && get32(request + 32) >= STATUS_SIZE;
    }
    /* OutboundInit may say offset 0 and mean word 6 */
    uint32_t at = 4u * (request[0] >> 4);
    if (!at)
        at = 24;
    if (at + 8 > FRAME_SIZE || (request[at + 3] & 0x30) != 0x10)
        return 0; /* not a simple element */
    *address = get32(request + at + 4);
    *length = get32(request + at) & 0xFFFFFF;
    if (request[7] == OUTBOUND_INIT) {
        int is_enough = *length >= 4;
        *length = 4;
        return is_enough;
    }
    uint32_t count = get32(request + 20), place = get32(request + 24);
    int is_inside = !get32(request + 28) && place <= DISK_SIZE && count <= DISK_SIZE - place;
    int is_room = count <= *length;
    *length = count;
    return is_inside && is_room;
}

static void fill(const struct job *job, uint32_t done, uint8_t *out, uint32_t size)
{
    const uint8_t *request = job->request;
    uint8_t block[STATUS_SIZE];
    status_block(block);
    for (uint32_t i = 0; i < size; i++) {
        if (request[7] == STATUS_GET)
            out[i] = block[done + i];
        else if (request[7] == OUTBOUND_INIT)
            out[i] = done + i ? 0 : INIT_COMPLETE;
        else
            out[i] = disk_byte(get32(request + 24) + done + i);
    }
}

/* Reply to the first job, if it has a reply, and free its frame; 0 if there is no room now. */
static int end_job(struct device *d)
{
    struct job *job = d->jobs;
    uint8_t function = job->request[7];
    int has_reply = function != STATUS_GET && function != OUTBOUND_INIT && function != UTIL_NOP;
    if (has_reply && !d->reply_count)
        return 0;
    uint8_t *at = record(d, has_reply ? 7 + 24 + 3 : 3);
    if (!at)
        return 0;
    if (has_reply) {
        at[0] = W_REPLY;
        at = put16(put32(at + 1, d->replies[--d->reply_count]), 6);
        at[0] = 0x01;
        at[1] = 0xC0; /* last reply */
        put16(at + 2, 6);
        uint32_t word = get32(job->request + 4); /* target and initiator change places */
        put32(at + 4, (word & 0xFF000000) | (word & 0xFFF) << 12 | (word >> 12 & 0xFFF));
        memcpy(at + 8, job->request + 8, 8);
        put16(at + 16, d->status == UNSUPPORTED ? UNSUPPORTED : 0);
        at[18] = 0;
        at[19] = d->status ? NO_DATA_TRANSFER : SUCCESS;
        put32(at + 20, d->done);
        at += 24;
    }
    at[0] = W_FREE;
    put16(at + 1, job->frame);
    memmove(d->jobs, d->jobs + 1, sizeof d->jobs - sizeof *d->jobs);
    d->jobs[FRAMES - 1].is_used = 0;
    d->done = d->is_ended = d->status = 0;
    return 1;
}

static void work(struct device *d)
{
    while (d->jobs[0].is_used && !d->is_waiting) {
        uint32_t address = 0, length = 0;
        uint8_t function = d->jobs[0].request[7];
        if (!d->is_ended) {
            if (function == UTIL_NOP) {
                d->is_ended = 1;
            } else if (function != STATUS_GET && function != OUTBOUND_INIT && function != BLOCK_READ) {
                d->is_ended = 1;
                d->status = UNSUPPORTED;
            } else if (!target(d->jobs, &address, &length)) {
                d->is_ended = 1;
                d->status = NO_DATA_TRANSFER;
            } else if (d->done == length) {
                d->is_ended = 1;
            }
        }
        if (d->is_ended) {
            if (!end_job(d))
                return;
            continue;
        }
        uint32_t size = length - d->done < CHUNK ? length - d->done : CHUNK;
        uint8_t *at = record(d, 10 + size);
        if (!at)
            return;
        at[0] = W_STORE;
        at[1] = d->generation; /* as the tag: an answer from before a reset is none */
        put32(put32(at + 2, address + d->done), size);
        fill(d->jobs, d->done, at + 10, size);
        d->done += size;
        d->is_waiting = 1;
    }
}

static void forget_jobs(struct device *d)
{
    memset(d->jobs, 0, sizeof d->jobs);
    d->reply_count = 0;
    d->done = d->is_waiting = d->is_ended = d->status = 0;
}

/* --- what the host says ------------------------------------------------------------------------ */

static void release(struct device *d, uint8_t generation, uint32_t address)
{
    if (generation == d->reply_generation && d->reply_count < REPLIES)
        d->replies[d->reply_count++] = address;
}

/* Take a record if all of it is there: its size, 0 if not, -1 for what it cannot be. */
static int take_record(struct device *d, const uint8_t *at, size_t size)
{
    static const uint8_t SIZES[] = {
        [W_BYE] = 1, [W_PING] = 1, [W_PONG] = 1, [W_RANGE] = 10, [W_POST] = 6, [W_POST_STATIC] = 4,
        [W_RELEASE] = 6, [W_RELEASE_RUN] = 10, [W_RESET] = 1, [W_DONE] = 3
    };
    uint8_t kind = at[0];
    if (kind >= sizeof SIZES || !SIZES[kind])
        return -1;
    size_t need = SIZES[kind];
    if (size < need)
        return 0;
    if (kind == W_POST) {
        size_t bytes = 4u * get16(at + 4);
        if (bytes > FRAME_SIZE || bytes < 8 || get16(at + 2) >= FRAMES)
            return -1;
        if (size < (need += bytes))
            return 0;
        if (at[1] == d->generation) {
            int i = 0;
            while (i < FRAMES && d->jobs[i].is_used)
                i++;
            if (i == FRAMES)
                return -1; /* there are no more frames than that */
            memset(d->jobs[i].request, 0, FRAME_SIZE);
            memcpy(d->jobs[i].request, at + 6, bytes);
            d->jobs[i].frame = get16(at + 2);
            d->jobs[i].is_used = 1;
        }
    } else if (kind == W_RANGE) {
        if (at[1] & 4)
            d->skip = get32(at + 6);
    } else if (kind == W_RELEASE) {
        release(d, at[1], get32(at + 2));
    } else if (kind == W_RELEASE_RUN) {
        for (uint16_t i = 0; i < get16(at + 8); i++)
            release(d, at[1], get32(at + 2) + (uint32_t)i * get16(at + 6));
    } else if (kind == W_DONE) {
        if (d->is_waiting && at[1] == d->generation) {
            d->is_waiting = 0;
            if (at[2]) { /* no such memory */
                d->is_ended = 1;
                d->status = NO_DATA_TRANSFER;
            }
        }
    } else if (kind == W_PING) {
        uint8_t *pong = record(d, 1);
        if (pong)
            *pong = W_PONG;
    } else if (kind == W_RESET) {
        forget_jobs(d);
        uint8_t *answer = record(d, 4);
        if (!answer)
            return -1;
        answer[0] = W_DROP;
        answer[1] = ++d->reply_generation;
        answer[2] = W_REFILL;
        answer[3] = ++d->generation;
    } else if (kind == W_BYE) {
        d->session = 0;
        forget_jobs(d);
    }
    return (int)need;
}

static void take_stream(struct device *d, const uint8_t *data, size_t size)
{
    while (size && d->session) {
        if (d->skip) {
            size_t skipped = d->skip < size ? d->skip : size;
            d->skip -= (uint32_t)skipped;
            data += skipped;
            size -= skipped;
            continue;
        }
        d->record[d->record_size++] = *data++;
        size--;
        int taken = take_record(d, d->record, d->record_size);
        if (taken < 0)
            d->session = 0; /* the host is told UNKNOWN when it sends again */
        if (taken)
            d->record_size = 0;
    }
}

static void welcome(struct device *d, const uint8_t *hello, size_t size)
{
    if (size < 16 || hello[0] != W_HELLO || get32(hello + 1) != 0x57324F49 || hello[5] != 1)
        return;
    if (hello[6] < 2 || get32(hello + 7) < CHUNK + 64)
        return; /* it is too small for this device */
    forget_jobs(d);
    do
        d->session = (uint16_t)random32(NULL);
    while (!d->session);
    d->credits = hello[6];
    d->host_packet = get32(hello + 7);
    d->owed = d->number = 0;
    d->out_size = 30;
    d->record_size = d->skip = 0;
    uint8_t *at = d->out;
    memset(at, 0, 30);
    at[0] = W_WELCOME;
    at[1] = 1;
    at[2] = W_WINDOW;
    put32(put32(at + 3, PACKET), get32(hello + 11));
    put16(put16(at + 11, FRAMES), FRAME_SIZE);
    at[15] = d->generation;
    at[16] = d->reply_generation;
}

static void take_packet(struct device *d, const uint8_t *packet, size_t size)
{
    if (size < 4)
        return;
    uint16_t session = get16(packet);
    if (!session) {
        welcome(d, packet + 4, size - 4);
    } else if (session != d->session) {
        uint8_t unknown[3] = {W_UNKNOWN, packet[0], packet[1]};
        send_packet(d, 0, 0, 0, unknown, sizeof unknown);
    } else {
        d->credits = (uint8_t)(d->credits + packet[3]);
        if (size > 4) {
            d->owed++;
            take_stream(d, packet + 4, size - 4);
        }
    }
}

/* --- what the link says ------------------------------------------------------------------------ */

static void on_up(void *owner)
{
    struct device *d = owner;
    uint8_t frame[36];
    d->epoch = (uint16_t)random32(NULL);
    d->is_greeted = 0;
    d->came = d->came_bytes = d->sent = d->sent_bytes = 0;
    d->is_engine_ack_due = 0;
    d->session = 0;
    uint8_t *at = put16(put16(engine_head(d, frame, E_HELLO), 1), E_RDM);
    at = put32(put32(at, random32(NULL)), random32(NULL));
    put32(put32(put32(put32(at, WINDOW_MESSAGES), WINDOW_BYTES), EAGER_LIMIT), 0);
    link_send(&d->link, frame, 32);
}

static void on_lost(void *owner)
{
    struct device *d = owner;
    d->session = 0;
    d->is_greeted = 0;
    forget_jobs(d);
}

static void on_frame(void *owner, const uint8_t *frame, size_t size)
{
    struct device *d = owner;
    if (size < 8)
        return;
    if (frame[0] == E_HELLO && size >= 32 && get16(frame + 6) == E_RDM) {
        d->peer_epoch = get16(frame + 2);
        d->message_limit = get32(frame + 16);
        d->byte_limit = get32(frame + 20);
        d->is_greeted = 1;
        return;
    }
    if (!d->is_greeted || get16(frame + 2) != d->peer_epoch)
        return;
    if (frame[0] == E_ACK && size >= 16) {
        d->message_limit = get32(frame + 8);
        d->byte_limit = get32(frame + 12);
        d->is_engine_ack_due |= frame[1] & E_ANSWER;
    } else if (frame[0] == E_MESSAGE && size >= E_HEAD && !(frame[1] & E_ANNOUNCED)) {
        d->message_limit = get32(frame + 36);
        d->byte_limit = get32(frame + 40);
        d->came++;
        d->came_bytes += (uint32_t)(size - E_HEAD);
        d->is_engine_ack_due = 1;
        if (frame[1] & E_TELL_MATCH) {
            uint8_t done[8];
            put32(engine_head(d, done, E_DONE), get32(frame + 4));
            link_send(&d->link, done, sizeof done);
        }
        take_packet(d, frame + E_HEAD, size - E_HEAD);
    }
}

/* --- the line ---------------------------------------------------------------------------------- */

static uint32_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

static int serve(const char *path)
{
    static struct device d;
    static uint8_t out[LINK_STUFFED + 2];
    struct termios modes;
    int line = open(path, O_RDWR | O_NOCTTY);
    if (line < 0 || tcgetattr(line, &modes)) {
        perror(path);
        return 1;
    }
    modes.c_iflag = modes.c_oflag = modes.c_lflag = 0;
    modes.c_cflag = CS8 | CREAD | CLOCAL;
    modes.c_cc[VMIN] = 1;
    modes.c_cc[VTIME] = 0;
    cfsetispeed(&modes, B115200);
    cfsetospeed(&modes, B115200);
    tcsetattr(line, TCSANOW, &modes);
    d.link.up = on_up;
    d.link.frame = on_frame;
    d.link.lost = on_lost;
    d.link.new_session = random32;
    d.link.owner = &d;
    link_init(&d.link);
    for (;;) {
        uint8_t data[256];
        struct pollfd wait = {line, POLLIN, 0};
        if (poll(&wait, 1, 20) < 0 && errno != EINTR)
            return 1;
        if (wait.revents & POLLIN) {
            ssize_t count = read(line, data, sizeof data);
            if (count <= 0)
                return 0; /* hung up */
            link_receive(&d.link, data, (size_t)count, now_ms());
        } else if (wait.revents) {
            return 0;
        }
        work(&d);
        flush(&d);
        size_t size;
        while ((size = link_output(&d.link, out, now_ms())) > 0)
            if (write(line, out, size) != (ssize_t)size)
                return 0;
    }
}

/* --- test vectors ------------------------------------------------------------------------------ */

static size_t from_hex(const char *text, uint8_t *out)
{
    size_t size = 0;
    unsigned value;
    for (; text[0] && text[1] && sscanf(text, "%2x", &value) == 1; text += 2)
        out[size++] = (uint8_t)value;
    return size;
}

static int check_vectors(void)
{
    static char plain_text[8192], stuffed_text[8192];
    static uint8_t plain[4096], stuffed[4096], made[8192];
    int count = 0;
    while (scanf("%8191s %8191s", plain_text, stuffed_text) == 2) {
        size_t size = from_hex(plain_text, plain), stuffed_size = from_hex(stuffed_text, stuffed);
        count++;
        if (cobs_encode(plain, size, made) != stuffed_size || memcmp(made, stuffed, stuffed_size)) {
            printf("line %d is stuffed differently\n", count);
            return 1;
        }
        if (cobs_decode(stuffed, stuffed_size, made) != (long)size || memcmp(made, plain, size)) {
            printf("line %d is read differently\n", count);
            return 1;
        }
        if (size > 8 && link_crc32(plain, size - 4) == get32(plain + size - 4))
            printf("frame %c\n", plain[0]);
    }
    printf("%d vectors\n", count);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s DEVICE | --vectors\n", argv[0]);
        return 2;
    }
    return strcmp(argv[1], "--vectors") ? serve(argv[1]) : check_vectors();
}
