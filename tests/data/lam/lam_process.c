/* SPDX-License-Identifier: Apache-2.0
 * A process of real LAM that does what lines on its standard input say, and prints what came of it.
 *
 *   send|try_send|tsend NODE EVENT TYPE FLAGS LENGTH SEED D0 … D7
 *   recv|try_recv|trecv|probe EVENT TYPE LENGTH
 *   sweep EVENT            (-1: all)
 *   convert UNIT HEX       (mltoti2, mltoti4, mltotf8 by UNIT; mltotf4 is unit 5)
 *   node
 *   ping EVENT_TO EVENT_FROM LENGTH COUNT   prints the median round trip in us
 *   pong EVENT_FROM EVENT_TO LENGTH COUNT
 *
 * Usage: lam_process PRIORITY. Without a running lamd it says so and ends with 3.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lam_config.h>
#include <bfreq.h>
#include <kio.h>
#include <net.h>
#include <t_types.h>

#define ROOM 65536

static char body[ROOM];

static unsigned checksum(const char *data, int length)
{
    unsigned sum = 1, other = 0;
    for (int i = 0; i < length; i++) {
        sum = (sum + (unsigned char)data[i]) % 65521;
        other = (other + sum) % 65521;
    }
    return other << 16 | sum;
}

static void print_result(int result, const struct nmsg *head, int shown)
{
    printf("%d %d dl=%d,%d event=%d type=%d length=%d flags=%d data=", result,
           result < 0 ? errno : 0, head->nh_dl_event, head->nh_dl_link, head->nh_event,
           head->nh_type, head->nh_length, head->nh_flags);
    for (int i = 0; i < NHDSIZE; i++)
        printf("%s%d", i ? "," : "", head->nh_data[i]);
    printf(" sum=%u\n", shown >= 0 ? checksum(body, shown) : 0);
}

static void do_send(const char *word, char *rest)
{
    struct nmsg head;
    int seed, at = 0;
    memset(&head, 0, sizeof head);
    sscanf(rest, "%d %d %d %d %d %d%n", &head.nh_node, &head.nh_event, &head.nh_type,
           &head.nh_flags, &head.nh_length, &seed, &at);
    rest += at;
    for (int i = 0; i < NHDSIZE; i++)
        head.nh_data[i] = strtol(rest, &rest, 10);
    for (int i = 0; i < head.nh_length; i++)
        body[i] = (char)(i * 7 + seed);
    head.nh_msg = body;
    errno = 0;
    int result = !strcmp(word, "send") ? nsend(&head) : !strcmp(word, "try_send")
                 ? ntry_send(&head) : tsend(&head);
    print_result(result, &head, -1);
}

static void do_receive(const char *word, char *rest)
{
    struct nmsg head;
    memset(&head, 0, sizeof head);
    sscanf(rest, "%d %d %d", &head.nh_event, &head.nh_type, &head.nh_length);
    head.nh_msg = body;
    memset(body, 0, sizeof body);
    errno = 0;
    int result = !strcmp(word, "recv") ? nrecv(&head) : !strcmp(word, "try_recv")
                 ? ntry_recv(&head) : !strcmp(word, "trecv") ? trecv(&head) : nprobe(&head);
    print_result(result, &head, strcmp(word, "probe") && result >= 0 ? head.nh_length : -1);
}

static void do_convert(char *rest)
{
    int unit = strtol(rest, &rest, 10), length = 0;
    while (sscanf(rest, " %2hhx", (unsigned char *)&body[length]) == 1) {
        while (*rest == ' ')
            rest++;
        rest += 2;
        length++;
    }
    if (unit == 2)
        mltoti2(body, length / 2);
    else if (unit == 4)
        mltoti4(body, length / 4);
    else if (unit == 5)
        mltotf4(body, length / 4);
    else
        mltotf8(body, length / 8);
    for (int i = 0; i < length; i++)
        printf("%02x", (unsigned char)body[i]);
    printf("\n");
}

static int compare(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return difference < 0 ? -1 : difference > 0;
}

static void do_echo(int begins, char *rest)
{
    struct nmsg out, in;
    int length, count;
    struct timespec from, to;
    memset(&out, 0, sizeof out);
    memset(&in, 0, sizeof in);
    sscanf(rest, "%d %d %d %d", begins ? &out.nh_event : &in.nh_event,
           begins ? &in.nh_event : &out.nh_event, &length, &count);
    out.nh_node = LOCAL;
    out.nh_msg = in.nh_msg = body;
    out.nh_length = length;
    double *took = calloc(count, sizeof *took);
    for (int i = 0; i < count; i++) {
        clock_gettime(CLOCK_MONOTONIC, &from);
        if (begins)
            nsend(&out);
        in.nh_length = length;
        nrecv(&in);
        if (!begins)
            nsend(&out);
        clock_gettime(CLOCK_MONOTONIC, &to);
        took[i] = ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / 1e3;
    }
    qsort(took, count, sizeof *took, compare);
    printf("%.3f\n", took[count / 2]);
    free(took);
}

int main(int argc, char **argv)
{
    char line[ROOM * 2], word[32];
    int at;
    if (argc != 2 || kenter("lam_process", atoi(argv[1]))) {
        fprintf(stderr, "lam_process: cannot attach: is lamd running?\n");
        return 3;
    }
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%31s%n", word, &at) != 1)
            continue;
        if (!strcmp(word, "send") || !strcmp(word, "try_send") || !strcmp(word, "tsend"))
            do_send(word, line + at);
        else if (!strcmp(word, "sweep")) {
            int event = atoi(line + at);
            printf("%d\n", event < 0 ? rbfsweep(LOCAL) : rbfsweep1(LOCAL, event));
        } else if (!strcmp(word, "node"))
            printf("%d %d\n", getnodeid(), getorigin());
        else if (!strcmp(word, "convert"))
            do_convert(line + at);
        else if (!strcmp(word, "ping") || !strcmp(word, "pong"))
            do_echo(word[1] == 'i', line + at);
        else
            do_receive(word, line + at);
        fflush(stdout);
    }
    kexit(0);
    return 0;
}
